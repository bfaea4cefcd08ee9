"""Random small LVIS datasets and results that meet every rule and corner of the evaluation.

A case is made of few values (whole coordinates, scores in steps), so that IoU values, scores and
areas tie. It holds crowds, ignored annotations, areas of zero, masks without a pixel, categories
that are negative, not exhaustive, both or neither, and images and categories without anything.
"""

import numpy as np
from pycocotools import mask as mask_api


class Case:
    """``truth``: an LVIS dataset; ``results``: with boxes and masks; ``max_dets``."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.images = [self._image(int(n)) for n in self._ids(7)]
        categories = [self._category(int(n)) for n in self._ids(6)]
        self.category_ids = [category["id"] for category in categories]
        for image in self.images:
            image["neg_category_ids"] = self._some_categories()
            image["not_exhaustive_category_ids"] = self._some_categories()
        annotations = [self._annotation(n + 1) for n in range(int(self.rng.integers(0, 40)))]
        self.truth = {
            "images": self.images,
            "categories": categories,
            "annotations": annotations,
        }
        self.results = self._results(annotations)
        self.max_dets = int(self.rng.choice([300, 300, 10, 3]))

    def _ids(self, most: int) -> np.ndarray:
        return self.rng.choice(50, int(self.rng.integers(1, most + 1)), replace=False)

    def _image(self, number: int) -> dict:
        height, width = self.rng.choice([12, 40, 130], 2).tolist()
        return {"id": number, "height": height, "width": width}

    def _category(self, number: int) -> dict:
        return {"id": number, "name": f"c{number}", "frequency": str(self.rng.choice(list("rcf")))}

    def _some_categories(self) -> list[int]:
        chosen = self.rng.random(len(self.category_ids)) < 0.4
        return [i for i, yes in zip(self.category_ids, chosen) if yes]

    def _box(self, image: dict) -> list[int]:
        size = np.array([image["width"], image["height"]])
        corner = self.rng.integers(0, size)
        extent = self.rng.integers(1, size - corner + 1)
        return [*corner.tolist(), *extent.tolist()]

    def _annotation(self, number: int) -> dict:
        image = self.images[int(self.rng.integers(len(self.images)))]
        box = self._box(image)
        annotation = {
            "id": number,
            "image_id": image["id"],
            "category_id": int(self.rng.choice(self.category_ids)),
            "bbox": box,
            "area": float(box[2] * box[3] if self.rng.random() < 0.8 else self.rng.integers(2)),
            "segmentation": self._segmentation(image, box),
        }
        if self.rng.random() < 0.2:
            annotation["iscrowd"] = 1
        if self.rng.random() < 0.2:
            annotation["ignore"] = 1
        return annotation

    def _segmentation(self, image: dict, box: list[int]) -> list | dict:
        kind = self.rng.choice(["polygon", "two", "flat", "compressed", "counts"])
        x, y, width, height = box
        if kind == "compressed":
            return self._rle(image, box)
        if kind == "counts":
            mask = mask_api.decode(self._rle(image, box)).ravel(order="F")
            edges = np.flatnonzero(np.diff(mask)) + 1
            runs = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
            counts = [0, *runs] if mask[0] else runs
            return {"size": [image["height"], image["width"]], "counts": counts}
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        if kind == "flat":  # rasterises to nothing
            corners = [x, y, x + width, y, x, y]
        second = [x, y, x + width / 2, y + height, x, y + height]
        return [corners, second] if kind == "two" else [corners]

    def _rle(self, image: dict, box: list[int]) -> dict:
        mask = np.zeros((image["height"], image["width"]), np.uint8, order="F")
        x, y, width, height = box
        mask[y : y + height, x : x + width] = 1
        if self.rng.random() < 0.3:
            mask[:: int(self.rng.integers(2, 4))] = 0
        rle = mask_api.encode(mask)
        return {"size": rle["size"], "counts": rle["counts"].decode()}

    def _results(self, annotations: list[dict]) -> list[dict]:
        results = [self._detection() for _ in range(int(self.rng.integers(1, 30)))]
        for annotation in annotations:
            for _ in range(int(self.rng.integers(0, 4))):
                results.append(self._near(annotation))
        return _without_copies([results[n] for n in self.rng.permutation(len(results))])

    def _detection(self) -> dict:
        image = self.images[int(self.rng.integers(len(self.images)))]
        return self._result(image, int(self.rng.choice(self.category_ids)), self._box(image))

    def _near(self, annotation: dict) -> dict:
        image = next(i for i in self.images if i["id"] == annotation["image_id"])
        moved = np.array(annotation["bbox"]) + self.rng.integers(-1, 2, 4)
        x, y = np.clip(moved[:2], 0, [image["width"] - 1, image["height"] - 1])
        width, height = np.clip(moved[2:], 0, [image["width"] - x, image["height"] - y])
        box = [int(x), int(y), int(width), int(height)]
        return self._result(image, annotation["category_id"], box)

    def _result(self, image: dict, category_id: int, box: list[int]) -> dict:
        if self.rng.random() < 0.1:
            box = [box[0], box[1], 0, box[3]]
        return {
            "image_id": image["id"],
            "category_id": category_id,
            "score": float(self.rng.integers(0, 6)) / 5 - 0.1,
            "bbox": [value + 0.5 * (self.rng.random() < 0.2) for value in box],
            "segmentation": self._rle(image, box),
        }


def _without_copies(results: list[dict]) -> list[dict]:
    """Results with the same box, or mask, twice under one score are refused before evaluation."""
    shapes = (lambda result: tuple(result["bbox"]), lambda result: result["segmentation"]["counts"])
    for shape in shapes:
        keys = [(r["image_id"], r["category_id"], r["score"], shape(r)) for r in results]
        results = [r for n, r in enumerate(results) if keys[n] not in keys[:n]]
    return results
