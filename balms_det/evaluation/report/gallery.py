"""The gallery of every class: ground truth, true and false positives and misses, as pictures.

An example becomes a small dict, and pictures and outlines are kept once however many use them:
``c`` picture and ``g``, ``d`` outlines of annotation and detection (indices, -1 for none), ``i``
image id, ``s`` score, ``o`` IoU, ``k`` class of the other side: the annotation's of a false
positive (-1: background), the detection's of a miss (-1: not found).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from balms_det.evaluation.detections import Detections
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.report.album import ENTRY_BYTES, Album, read_picture
from balms_det.evaluation.report.crops import (
    PIXELS,
    Region,
    box_path,
    crop_region,
    encode_crop,
    mask_path,
)
from balms_det.evaluation.report.examples import MISS, WRONG, Example, Shelf, in_turn
from balms_det.evaluation.report.matching import NONE, Matches

_BATCH = 256  # examples that are drawn together, image by image
# Of the room for the gallery, new pictures may take this share; the rest is for outlines and for
# examples that share a picture with others.
_PICTURE_SHARE = 0.85
_BYTES_OF_LARGEST = 3500  # of a photo at PIXELS, about


class GalleryMaker:
    """Draws examples.

    Args:
        truth: the ground truth.
        runs: detections and matches of each run.
        paths: image file of each image.
    """

    def __init__(
        self,
        truth: GroundTruth,
        runs: Sequence[tuple[Detections, Matches]],
        paths: Sequence[str],
    ) -> None:
        self.truth = truth
        self.runs = runs
        self.paths = paths
        self.album = Album()
        self._stored: dict[tuple, int] = {}
        self._pixels = PIXELS
        self._opened: tuple[int, Image.Image] | None = None

    def draw(self, shelves: Sequence[Shelf], max_bytes: int) -> dict[Example, dict]:
        """Draw examples in turn until the gallery takes about ``max_bytes``.

        Pictures are made smaller if there is otherwise no room for the first of every shelf.

        Raises:
            FileNotFoundError: an image file is missing.
            ValueError: an image cannot be read or is not of the annotated size.
        """
        examples = list(in_turn(shelves))
        self._pixels = self._affordable_pixels(shelves, max_bytes)
        drawn: dict[Example, dict] = {}
        for start in range(0, len(examples), _BATCH):
            batch = examples[start : start + _BATCH]
            for example in sorted(batch, key=lambda e: e.image):  # so that each is opened once
                if self._has_room(example, max_bytes):
                    drawn[example] = self._draw(example)
        return drawn

    def _affordable_pixels(self, shelves: Sequence[Shelf], max_bytes: int) -> int:
        first = {
            (example.image, self._region(example))
            for shelf in shelves
            for example in shelf.examples[:1]
        }
        needed = max(len(first), 1) * _BYTES_OF_LARGEST / _PICTURE_SHARE
        return max(round(PIXELS * min(1.0, math.sqrt(max_bytes / needed))), PIXELS // 2)

    def _has_room(self, example: Example, max_bytes: int) -> bool:
        if self.album.size >= max_bytes:
            return False
        key = ("picture", example.image, self._region(example))
        return key in self._stored or self.album.picture_size < _PICTURE_SHARE * max_bytes

    def _draw(self, example: Example) -> dict:
        image, region = example.image, self._region(example)
        entry = {
            "c": self._once(("picture", image, region), lambda: self._picture(image, region)),
            "i": self.truth.image_ids[image],
            "g": NONE,
            "d": NONE,
        }
        if example.truth >= 0:
            entry["g"] = self._outline(NONE, example.truth, region)
        if example.detection >= 0:
            detections, matches = self.runs[example.run]
            entry["d"] = self._outline(example.run, example.detection, region)
            entry["s"] = round(float(detections.score[example.detection]), 3)
            entry["o"] = round(float(matches.overlap[example.detection]), 2)
        if example.kind in (WRONG, MISS):
            entry["k"] = self._other_class(example)
        self.album.size += ENTRY_BYTES
        return entry

    def _other_class(self, example: Example) -> int:
        if example.kind == WRONG:
            return int(self.truth.category[example.truth]) if example.truth >= 0 else NONE
        if example.detection < 0:
            return NONE
        return int(self.runs[example.run][0].category[example.detection])

    def _region(self, example: Example) -> Region:
        if example.truth >= 0:
            box = self.truth.box[example.truth]
        else:
            box = _detection_box(self.runs[example.run][0], example.detection)
        return crop_region(box, *self.truth.sizes[example.image])

    def _picture(self, image: int, region: Region) -> int:
        uri = encode_crop(self._open(image), region, self._pixels)
        return self.album.add_picture(uri, region)

    def _outline(self, run: int, index: int, region: Region) -> int:
        return self._once(("outline", run, index, region), lambda: self._path(run, index, region))

    def _path(self, run: int, index: int, region: Region) -> int:
        side = self.truth if run == NONE else self.runs[run][0]
        masks = side.rles if run == NONE else side.masks
        if masks is None:
            return self.album.add_outline(box_path(side.box[index], region))
        return self.album.add_outline(mask_path(masks[index], region))

    def _once(self, key: tuple, make) -> int:
        if key not in self._stored:
            self._stored[key] = make()
        return self._stored[key]

    def _open(self, image: int) -> Image.Image:
        if self._opened is None or self._opened[0] != image:
            self._opened = (image, read_picture(self.paths[image], self.truth.sizes[image]))
        return self._opened[1]


def _detection_box(detections: Detections, index: int) -> np.ndarray:
    if detections.masks is None:
        return detections.box[index]
    return np.asarray(mask_api.toBbox([detections.masks[index]]))[0]
