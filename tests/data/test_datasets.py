"""Datasets registered from rows of a config, and NUM_CLASSES that follows from them."""

import os

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from balms_det.annotations.instances import load_instances
from balms_det.annotations.read import AnnotationFileError
from balms_det.data.class_stats import ClassStats
from balms_det.data.datasets import register_files, resolve_num_classes, setup_datasets
from tests.data.conftest import coco_content, lvis_content


def test_coco_rows_load_as_detectron2_loads_them(write_dataset, cfg):
    json_file, root = write_dataset(coco_content())
    register_files([["files_coco", json_file, root]])
    metadata = MetadataCatalog.get("files_coco")
    assert metadata.thing_classes == ["cat", "dog", "crowd"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1, 20: 2}
    assert (metadata.evaluator_type, metadata.json_file) == ("coco", json_file)
    assert metadata.frequency_groups == ["r", "r", "r"]
    expected = load_coco_json(json_file, root, "files_coco_reference")
    MetadataCatalog.pop("files_coco_reference")
    assert DatasetCatalog.get("files_coco") == expected


def test_lvis_rows_keep_the_federated_keys(write_dataset, cfg):
    json_file, root = write_dataset(lvis_content())
    register_files([["files_lvis", json_file, root]])
    metadata = MetadataCatalog.get("files_lvis")
    assert metadata.evaluator_type == "lvis"
    assert metadata.frequency_groups == ["c", "f", "r"]
    record = DatasetCatalog.get("files_lvis")[0]
    assert record["file_name"] == os.path.join(root, "img/1.jpg")
    assert record["neg_category_ids"] == [20]
    assert record["not_exhaustive_category_ids"] == []
    assert [a["category_id"] for a in record["annotations"]] == [1, 1, 0]


@pytest.mark.parametrize(
    ("root", "image"),
    [
        ("", {"coco_url": "http://x.org/img/{}.jpg", "file_name": "{}.jpg"}),  # LVIS v1
        ("img", {"coco_url": "http://x.org/other/{}.jpg"}),  # the split's own folder as root
        ("img", {"file_name": "COCO_val2014_{}.jpg"}),  # LVIS v0.5
        ("img", {"file_name": "{}.jpg"}),
        ("", {"file_name": "img/{}.jpg"}),
    ],
)
def test_image_layouts_of_lvis_files(write_dataset, cfg, root, image):
    content = lvis_content()
    for entry in content["images"]:
        del entry["coco_url"]
        entry.update({key: value.format(entry["id"]) for key, value in image.items()})
    json_file, images = write_dataset(content)
    register_files([["files_layout", json_file, os.path.join(images, root)]])
    paths = [record["file_name"] for record in DatasetCatalog.get("files_layout")]
    assert [os.path.relpath(p, images) for p in paths] == ["img/1.jpg", "img/2.jpg", "img/5.jpg"]


def test_masks_of_every_kind(write_dataset, cfg):
    mask = np.zeros((8, 9), np.uint8, order="F")
    mask[2:4, 2:5] = 1
    compressed = mask_util.encode(mask)
    compressed["counts"] = compressed["counts"].decode()
    runs = {"size": [8, 9], "counts": [18, 2, 6, 2, 6, 2, 36]}
    content = coco_content()
    runs_of = content["annotations"]
    runs_of[0]["segmentation"], runs_of[1]["segmentation"] = compressed, runs
    runs_of[2]["segmentation"] = [[1, 1, 5, 1, 5, 5]]
    json_file, root = write_dataset(content)
    register_files([["files_masks", json_file, root]])
    first, second, _ = DatasetCatalog.get("files_masks")
    masks = [a["segmentation"] for a in first["annotations"]]
    assert masks[0] == compressed
    np.testing.assert_array_equal(mask_util.decode(masks[1]), mask)
    assert masks[2] == [[1, 1, 5, 1, 5, 5]]
    assert len(second["annotations"]) == sum(a["image_id"] == 2 for a in runs_of)


def test_every_object_that_is_counted_is_loaded(write_dataset, cfg):
    """An outline of two points is no reason to drop it silently, and leave the count."""
    content = coco_content()
    json_file, root = write_dataset(content)
    register_files([["files_counted", json_file, root]])
    loaded = [a for record in DatasetCatalog.get("files_counted") for a in record["annotations"]]
    things = [a["category_id"] for a in loaded if not a["iscrowd"]]
    stats = ClassStats.from_file(json_file)
    assert np.bincount(things, minlength=stats.num_classes).tolist() == list(stats.instance_count)
    content["annotations"][3]["segmentation"] = [[1, 1, 2, 2]]
    json_file, root = write_dataset(content)
    with pytest.raises(ValueError, match=r"needs 3 points, it has 4 numbers"):
        load_instances("files_counted", json_file, root)


def test_same_row_twice_is_fine_and_another_is_not(write_dataset, cfg):
    json_file, root = write_dataset(coco_content())
    register_files([["files_twice", json_file, root], ["files_twice", json_file, root]])
    register_files([["files_twice", json_file, root]])
    with pytest.raises(ValueError, match=r"files_twice.*already registered"):
        register_files([["files_twice", json_file, root + "/img"]])
    with pytest.raises(ValueError, match=r"coco_2017_train.*already registered"):
        register_files([["coco_2017_train", json_file, root]])


@pytest.mark.parametrize("row", [["a", "b"], ["a", "b", 3], ["", "b", "c"], "abcd"])
def test_malformed_row(row):
    with pytest.raises(ValueError, match=r"DATASETS.FILES"):
        register_files([row])


def test_missing_folder_json_and_images(write_dataset, cfg, tmp_path):
    json_file, root = write_dataset(coco_content())
    with pytest.raises(FileNotFoundError, match=r"files_x.*no_folder"):
        register_files([["files_x", json_file, str(tmp_path / "no_folder")]])
    with pytest.raises(FileNotFoundError, match=r"no.json"):
        register_files([["files_x", str(tmp_path / "no.json"), root]])
    assert "files_x" not in DatasetCatalog
    os.remove(os.path.join(root, "img", "2.jpg"))
    register_files([["files_x", json_file, root]])
    with pytest.raises(FileNotFoundError, match=r"files_x.*2\.jpg"):
        DatasetCatalog.get("files_x")


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.jpg", "img/../../secret.jpg", ""])
@pytest.mark.parametrize("content", [coco_content, lvis_content])
def test_file_names_stay_under_the_root(write_dataset, cfg, name, content):
    content = content()
    for image in content["images"]:
        image.pop("coco_url", None)
        image["file_name"] = name
    json_file, root = write_dataset(content)
    register_files([["files_escape", json_file, root]])
    with pytest.raises(ValueError, match=r"files_escape.*(image root|no 'file_name')"):
        DatasetCatalog.get("files_escape")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bbox": [1, 2, 3]}, "four numbers"),
        ({"bbox": None}, "four numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "four numbers"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "segmentation"),
        ({"segmentation": {"counts": "x"}}, "segmentation"),
        ({"id": 2}, "annotation id 2"),
    ],
)
def test_wrong_annotation_is_named(write_dataset, cfg, values, words):
    content = coco_content()
    content["annotations"][0].update(values)
    json_file, root = write_dataset(content)
    register_files([["files_wrong", json_file, root]])
    with pytest.raises(AnnotationFileError, match=words) as error:
        DatasetCatalog.get("files_wrong")
    assert json_file in str(error.value)


def test_image_without_size(write_dataset, cfg):
    content = coco_content()
    del content["images"][0]["height"]
    json_file, root = write_dataset(content)
    register_files([["files_size", json_file, root]])
    with pytest.raises(AnnotationFileError, match="image 2 has no 'height'"):
        DatasetCatalog.get("files_size")


def test_num_classes_is_filled_in_even_when_frozen(write_dataset, cfg):
    json_file, root = write_dataset(coco_content())
    cfg.DATASETS.FILES = [["files_k", json_file, root]]
    cfg.DATASETS.TRAIN = ("files_k",)
    cfg.freeze()
    assert setup_datasets(cfg) is cfg
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert cfg.is_frozen() and cfg.MODEL.RETINANET.NUM_CLASSES == 80
    assert setup_datasets(cfg).MODEL.ROI_HEADS.NUM_CLASSES == 3


def test_num_classes_that_disagrees(write_dataset, cfg):
    json_file, root = write_dataset(coco_content())
    cfg.DATASETS.FILES = [["files_k", json_file, root]]
    cfg.DATASETS.TRAIN = ("files_k",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 4, but files_k has 3"):
        setup_datasets(cfg)


def test_num_classes_of_detectron2s_datasets(cfg):
    cfg.DATASETS.TRAIN = ("lvis_v1_train",)
    assert resolve_num_classes(cfg).MODEL.ROI_HEADS.NUM_CLASSES == 1203
    cfg.DATASETS.TRAIN = ("lvis_v1_train", "coco_2017_train")
    with pytest.raises(ValueError, match="different class lists"):
        resolve_num_classes(cfg)


def test_without_training_data_nothing_changes(cfg):
    assert setup_datasets(cfg).MODEL.ROI_HEADS.NUM_CLASSES == 80


def test_setup_serves_detectron2s_federated_loss(write_dataset, cfg):
    json_file, root = write_dataset(coco_content())
    cfg.DATASETS.FILES = [["files_fed", json_file, root]]
    cfg.DATASETS.TRAIN = ("files_fed",)
    cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS = True
    setup_datasets(cfg)
    counts = MetadataCatalog.get("files_fed").class_image_count
    assert counts == [{"id": i + 1, "image_count": n} for i, n in enumerate((1, 2, 0))]
