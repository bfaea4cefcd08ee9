"""Generate an annotation file of the size of LVIS v1 train, with its counts for every class.

100,170 images, 1,270,141 instances of 1,203 classes; as many images and instances of each class as
LVIS v1 train has. Boxes and polygons are made up, and all images name one (empty) picture file.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from balms_det.data import ClassStats

# Points of a polygon: shorter than LVIS's own, which is to the advantage of a full json load.
POINTS = 12
IMAGE = "train2017/picture.jpg"


def generate(folder: Path, seed: int = 0) -> Path:
    """Write ``train.json`` and its picture into ``folder``; return the path of the json."""
    stats = ClassStats.from_dataset("lvis_v1_train")
    generator = np.random.default_rng(seed)
    images, classes = _instances(stats, generator)
    shapes = [_shape(generator) for _ in range(1000)]
    (folder / IMAGE).parent.mkdir(parents=True, exist_ok=True)
    (folder / IMAGE).touch()
    path = folder / "train.json"
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"images": [')
        file.write(", ".join(_image(index) for index in range(stats.num_images)))
        file.write('], "categories": ')
        json.dump(_categories(stats), file)
        file.write(', "annotations": [')
        rows = zip(images.tolist(), classes.tolist())
        for index, (image, category) in enumerate(rows):
            file.write(
                f'{", " if index else ""}{{"id": {index + 1}, "image_id": {image + 1}, '
                f'"category_id": {category + 1}, {shapes[index % len(shapes)]}}}'
            )
        file.write("]}")
    return path


def _instances(stats: ClassStats, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image and class of every instance, each (instances,), in random order."""
    images, classes = [], []
    for c, (num_images, num_instances) in enumerate(zip(stats.image_count, stats.instance_count)):
        own = generator.choice(stats.num_images, num_images, replace=False, shuffle=False)
        more = generator.choice(own, num_instances - num_images)
        images += [own, more]
        classes.append(np.full(num_instances, c))
    order = generator.permutation(int(stats.instance_count.sum()))
    return np.concatenate(images)[order], np.concatenate(classes)[order]


def _shape(generator: np.random.Generator) -> str:
    """Box, area and polygon of an instance, as json."""
    x, y = generator.uniform(0, 300, 2)
    width, height = generator.uniform(10, 150, 2)
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    radii = generator.uniform(0.6, 1.0, POINTS)
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None] / 2 + 0.5
    polygon = np.round(points * [width, height] + [x, y], 2).ravel().tolist()
    box = np.round([x, y, width, height], 2).tolist()
    area = round(width * height / 2, 2)
    return f'"bbox": {box}, "area": {area}, "segmentation": [{polygon}]'


def _image(index: int) -> str:
    return json.dumps(
        {
            "id": index + 1,
            "height": 480,
            "width": 640,
            "coco_url": f"http://images.example.org/{IMAGE}",
            "neg_category_ids": [index % 1203 + 1, (index + 5) % 1203 + 1],
            "not_exhaustive_category_ids": [],
        }
    )


def _categories(stats: ClassStats) -> list[dict]:
    columns = zip(stats.names, stats.frequency, stats.image_count.tolist())
    return [
        {"id": c + 1, "name": name, "synonyms": [name], "frequency": label, "image_count": count}
        for c, (name, label, count) in enumerate(columns)
    ]
