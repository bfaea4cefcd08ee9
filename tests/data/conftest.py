"""Small annotation files, written where a test needs them."""

import json

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from balms_det import add_balms_config


def coco_content():
    """Three images, categories with gaps and out of order, one crowd, one image without any."""
    square = [[1, 1, 5, 1, 5, 5, 1, 5]]
    annotations = [(1, 7, 0), (1, 7, 0), (1, 3, 0), (2, 7, 0), (2, 20, 1)]
    return {
        "images": [
            {"id": i, "file_name": f"img/{i}.jpg", "height": 8, "width": 9} for i in (2, 1, 5)
        ],
        "categories": [
            {"id": 20, "name": "crowd"},
            {"id": 3, "name": "cat"},
            {"id": 7, "name": "dog"},
        ],
        "annotations": [
            {
                "id": index + 1,
                "image_id": image,
                "category_id": category,
                "iscrowd": crowd,
                "bbox": [1, 1, 4, 4],
                "area": 16,
                "segmentation": square,
            }
            for index, (image, category, crowd) in enumerate(annotations)
        ],
    }


def lvis_content():
    """The same in LVIS v1 format: images without ``file_name``, categories with labels."""
    content = coco_content()
    for image in content["images"]:
        image["coco_url"] = f"http://images.example.org/img/{image['id']}.jpg"
        del image["file_name"]
        image["neg_category_ids"] = [20]
        image["not_exhaustive_category_ids"] = []
    for category, frequency in zip(content["categories"], "rcf"):
        category["frequency"] = frequency
        category["synonyms"] = [category["name"] + "_1"]
    return content


@pytest.fixture
def write_dataset(tmp_path):
    """Write a json and the (empty) image files it names; return both paths as strings."""

    def write(content, name="train.json"):
        folder = tmp_path / "images" / "img"
        folder.mkdir(parents=True, exist_ok=True)
        for image in ("1.jpg", "2.jpg", "5.jpg"):
            (folder / image).touch()
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path), str(tmp_path / "images")

    return write


@pytest.fixture
def cfg():
    """A default config with balms_det's keys; datasets that the test registers are removed."""
    before = set(DatasetCatalog.list())
    config = get_cfg()
    add_balms_config(config)
    config.DATASETS.TRAIN = ()
    yield config
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
