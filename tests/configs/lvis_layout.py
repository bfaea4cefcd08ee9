"""Four pictures as LVIS v0.5 and v1, train and val, in LVIS's layout of folders."""

import json

import numpy as np
from PIL import Image

CLASSES = {"v0.5": 1230, "v1": 1203}


def write_data(root):
    """LVIS v0.5 and v1, train and val, as they lie under ``DETECTRON2_DATASETS``."""
    names = [f"{number:012d}.jpg" for number in range(1, 5)]
    for split in ("train2017", "val2017"):
        (root / "coco" / split).mkdir(parents=True)
        for number, name in enumerate(names):
            pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(root / "coco" / split / name)
    (root / "lvis").mkdir()
    for version, count in CLASSES.items():
        for split in ("train", "val"):
            content = lvis_content(version, split, count, names)
            (root / "lvis" / f"lvis_{version}_{split}.json").write_text(json.dumps(content))


def lvis_content(version, split, count, names):
    images, annotations = [], []
    for number, name in enumerate(names, start=1):
        image = {"id": number, "width": 64, "height": 64, "neg_category_ids": []}
        image |= {"not_exhaustive_category_ids": [], "coco_url": f"http://x/{split}2017/{name}"}
        images.append(image | ({"file_name": name} if version == "v0.5" else {}))
        for corner, category in ((4, number), (20, 500), (30, count - number)):
            a, b = corner, corner + 24
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            entry |= {"bbox": [a, a, 24, 24], "area": 576, "segmentation": [[a, a, b, a, b, b]]}
            annotations.append(entry)
    categories = [
        {"id": c, "name": f"c{c}", "synonyms": [f"c{c}"], "frequency": "f", "image_count": 200}
        for c in range(1, count + 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
