"""Generated datasets and results for the tests of the report: rectangles on one small picture."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

SIDE = 64


@dataclass
class Case:
    """Files of a case: annotations, image root, and results of each run."""

    gt: Path
    root: Path
    runs: dict[str, Path]


def make_case(
    folder: Path, names: list[str], num_images: int, num_runs: int = 2, seed: int = 0
) -> Case:
    """Every class is on at least one image if there are as many instances (4 an image) as classes.

    A run finds most instances, gives some of them to the next class and invents some more.
    """
    rng = np.random.default_rng(seed)
    (folder / "val").mkdir(parents=True)
    pixels = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "val" / "picture.png")
    annotations = []
    for n in range(4 * num_images):
        x, y = rng.integers(0, SIDE - 24, 2).tolist()
        w, h = rng.integers(10, 24, 2).tolist()
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        annotations.append(
            {
                "id": n + 1,
                "image_id": n // 4 + 1,
                "category_id": n % len(names) + 1,
                "bbox": [x, y, w, h],
                "area": w * h,
                "segmentation": [polygon],
            }
        )
    write_truth(folder / "gt.json", names, num_images, annotations)
    runs = {}
    for run in range(num_runs):
        runs[f"run {run}"] = folder / f"run{run}.json"
        results = [d for a in annotations for d in _detections(a, len(names), rng)]
        runs[f"run {run}"].write_text(json.dumps(results))
    return Case(folder / "gt.json", folder, runs)


def write_truth(path: Path, names: list[str], num_images: int, annotations: list[dict]) -> None:
    image = {"width": SIDE, "height": SIDE, "file_name": "val/picture.png"}
    image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    content = {
        "images": [{"id": i + 1, **image} for i in range(num_images)],
        "categories": [
            {"id": k + 1, "name": name, "frequency": "rcf"[k % 3]} for k, name in enumerate(names)
        ],
        "annotations": annotations,
    }
    path.write_text(json.dumps(content))


def rectangle(x: float, y: float, w: float, h: float) -> dict:
    """Compressed RLE of a rectangle."""
    rle = mask_api.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], SIDE, SIDE)[0]
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def detection(image_id: int, category_id: int, box: list[float], score: float) -> dict:
    entry = {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
    return {**entry, "segmentation": rectangle(*box)}


def _detections(annotation: dict, num_classes: int, rng: np.random.Generator) -> list[dict]:
    image_id, category_id = annotation["image_id"], annotation["category_id"]
    if rng.random() < 0.2:
        return []
    x, y, w, h = annotation["bbox"]
    box = [x + int(rng.integers(0, 3)), y, w, h]
    if rng.random() < 0.3:
        category_id = category_id % num_classes + 1
    found = [detection(image_id, category_id, box, float(rng.random()))]
    if rng.random() < 0.2:
        found.append(detection(image_id, category_id, [1, 1, 8, 8], float(rng.random())))
    return found
