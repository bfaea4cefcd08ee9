"""Sound documents, as small as they get, for the cases to damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from balms_det.annotations.masks import mask_to_rle

HEIGHT, WIDTH = 10, 20
NAMES = ("a.jpg", "b.jpg")


def rle() -> dict:
    """A compressed RLE that fills an image."""
    mask = mask_to_rle(np.ones((HEIGHT, WIDTH), bool))
    return {"size": list(mask["size"]), "counts": mask["counts"].decode()}


def coco() -> dict:
    """COCO format: two images, classes 3 and 7, a polygon and an RLE that is not compressed."""
    images = [
        {"id": n, "height": HEIGHT, "width": WIDTH, "file_name": f"part/{name}"}
        for n, name in enumerate(NAMES, 1)
    ]
    categories = [{"id": 3, "name": "owl"}, {"id": 7, "name": "bee"}]
    common = {"bbox": [1, 1, 5, 5], "area": 25.0, "iscrowd": 0}
    polygon = [[1, 1, 6, 1, 6, 6, 1, 6]]
    runs = {"size": [HEIGHT, WIDTH], "counts": [11, 5, 184]}
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 3, **common, "segmentation": polygon},
        {"id": 2, "image_id": 2, "category_id": 7, **common, "segmentation": runs},
    ]
    return {"images": images, "categories": categories, "annotations": annotations}


def lvis() -> dict:
    """The same in LVIS format."""
    content = coco()
    for image in content["images"]:
        image.update(neg_category_ids=[7], not_exhaustive_category_ids=[])
        image["coco_url"] = f"http://images.example.org/{image['file_name']}"
    for category in content["categories"]:
        category.update(frequency="r", synonyms=[category["name"]], image_count=1)
    return content


def results() -> list[dict]:
    """Detections with boxes and masks."""
    return [
        {"image_id": n, "category_id": 3, "score": 0.5, "bbox": [1, 1, 5, 5], "segmentation": rle()}
        for n in (1, 2)
    ]


def write(path: Path, content: Any) -> str:
    """Write bytes, text, or anything else as json; the path as a text."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
    return str(path)


def write_images(folder: Path) -> str:
    """The image root of the documents."""
    (folder / "images" / "part").mkdir(parents=True)
    for name in NAMES:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / "part" / name)
    return str(folder / "images")


def fill(folder: Path) -> Path:
    """Sound files and such that are none, for command lines."""
    write_images(folder)
    write(folder / "gt.json", lvis())
    write(folder / "results.json", results())
    write(folder / "empty.json", "")
    write(folder / "cut.json", json.dumps(lvis())[:-40])
    write(folder / "object.json", {})
    write(folder / "junk.json", bytes(range(256)))
    write(folder / "a.yaml", "MODEL: {DEVICE: cpu}\n")
    write(folder / "unknown.yaml", "MODEL: {DEVISE: cpu}\n")
    write(folder / "junk.jpg", b"\xff\xd8 no picture")
    (folder / "folder").mkdir()
    return folder
