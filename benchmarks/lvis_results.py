"""Generate ground truth and results that look like LVIS's validation set and a detector's output.

An image has some 12 instances of its 1,203 categories (drawn as often as in LVIS v1 train), ten
negative categories and 300 detections: a part of them near the instances, with their category, the
rest anywhere, of any category. Masks are polygons of 24 points, their sizes spread evenly over the
logarithm. Instances and masks are drawn from a pool, because rasterising is not what is measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_api

from balms_det.data import ClassStats

HEIGHT, WIDTH = 480, 640
DETECTIONS = 300
NEAR = 0.4  # share of the detections that are near an instance
SHAPES, VERSIONS, POINTS = 2000, 8, 24


class LvisLike:
    """A generated validation set with its detections.

    Args:
        num_images: images; LVIS v1's validation set has 19,809.
        seed: of all that is drawn.
    """

    def __init__(self, num_images: int, seed: int = 0) -> None:
        self.generator = np.random.default_rng(seed)
        self.stats = ClassStats.from_dataset("lvis_v1_train")
        self.share = self.stats.instance_count / self.stats.instance_count.sum()
        self.shapes = [self._shape() for _ in range(SHAPES)]
        self.instances = [self._instances() for _ in range(num_images)]
        self.negative = self.generator.integers(0, self.stats.num_classes, (num_images, 10))

    def _shape(self) -> list[dict]:
        """An instance's segmentation first, then what a detector might make of it."""
        extent = np.exp(self.generator.uniform(np.log(12), np.log(300), 2))
        corner = self.generator.uniform(0, np.maximum([WIDTH, HEIGHT] - extent, 1))
        angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
        circle = np.stack([np.cos(angles), np.sin(angles)], 1) / 2 + 0.5
        radii = self.generator.uniform(0.7, 1.0, (POINTS, 1))
        versions = []
        for number in range(VERSIONS):
            jitter = self.generator.normal(0, 0.04 * number, (2, 2))
            points = (circle - 0.5) * radii + 0.5
            points = points * extent * np.exp(jitter[0]) + corner + jitter[1] * extent
            polygon = np.round(points.clip(0, [WIDTH - 1, HEIGHT - 1]), 2).ravel().tolist()
            rle = mask_api.frPyObjects([polygon], HEIGHT, WIDTH)[0]
            versions.append(
                {
                    "bbox": mask_api.toBbox(rle).tolist(),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    "polygon": [polygon],
                    "area": float(mask_api.area(rle)),
                }
            )
        return versions

    def _instances(self) -> list[tuple[int, int]]:
        """Shape and class of an image's instances; several of a class are common."""
        classes = self.generator.choice(self.stats.num_classes, 4, p=self.share)
        count = 1 + self.generator.poisson(11)
        shapes = self.generator.integers(0, SHAPES, count)
        return list(zip(shapes.tolist(), self.generator.choice(classes, count).tolist()))

    def truth(self) -> dict:
        """The annotation file."""
        names, labels = self.stats.names, self.stats.frequency
        annotations = []
        for image, instances in enumerate(self.instances, start=1):
            for shape, category in instances:
                annotation = {"id": len(annotations) + 1, "image_id": image}
                own = self.shapes[shape][0]
                annotation.update(category_id=category + 1, bbox=own["bbox"], area=own["area"])
                annotations.append({**annotation, "segmentation": own["polygon"]})
        return {
            "images": [self._image(n) for n in range(len(self.instances))],
            "categories": [
                {"id": c + 1, "name": names[c], "frequency": labels[c]} for c in range(len(names))
            ],
            "annotations": annotations,
        }

    def _image(self, number: int) -> dict:
        present = {category for _, category in self.instances[number]}
        return {
            "id": number + 1,
            "height": HEIGHT,
            "width": WIDTH,
            "neg_category_ids": sorted({c + 1 for c in self.negative[number].tolist()} - present),
            "not_exhaustive_category_ids": sorted({c + 1 for c in list(present)[:1]}),
        }

    def result_lines(self) -> Iterator[str]:
        """The detections, image by image, each as json."""
        found = [[_tail(version) for version in versions] for versions in self.shapes]
        for image, instances in enumerate(self.instances, start=1):
            near = int(NEAR * DETECTIONS)
            of = self.generator.integers(0, len(instances), near)
            shapes = self.generator.integers(0, SHAPES, DETECTIONS)
            classes = self.generator.choice(self.stats.num_classes, DETECTIONS, p=self.share)
            shapes[:near], classes[:near] = np.array(instances)[of].T
            versions = self.generator.integers(1, VERSIONS, DETECTIONS)
            scores = np.round(self.generator.beta(0.5, 6, DETECTIONS), 8)
            columns = (column.tolist() for column in (shapes, versions, classes, scores))
            for shape, version, category, score in zip(*columns):
                yield (
                    f'{{"image_id": {image}, "category_id": {category + 1}, "score": {score}, '
                    f"{found[shape][version]}"
                )


def _tail(version: dict) -> str:
    keys = ("bbox", "segmentation")
    return json.dumps({key: version[key] for key in keys})[1:]


def write(folder: Path, num_images: int, seed: int = 0) -> tuple[Path, Path]:
    """Write ``truth.json`` and ``results.json``; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data = LvisLike(num_images, seed)
    truth, results = folder / "truth.json", folder / "results.json"
    truth.write_text(json.dumps(data.truth()))
    with open(results, "w", encoding="utf-8") as file:
        for number, line in enumerate(data.result_lines()):
            file.write(("[" if number == 0 else ",\n") + line)
        file.write("]")
    return truth, results
