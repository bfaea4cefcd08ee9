"""The gallery of every class: ground truth, true and false positives and misses, as pictures.

An example becomes a small dict, and pictures and outlines are kept once however many use them:
``c`` picture and ``g``, ``d`` outlines of annotation and detection (indices, -1 for none), ``i``
image id, ``s`` score, ``o`` IoU, ``k`` class of the other side: the annotation's of a false
positive (-1: background), the detection's of a miss (-1: not found).

A crop is a square region ``(x0, y0, x1, y1)`` of an image in whole pixels, cut off at its borders.
Examples that look at the same instance share a crop: outlines are drawn over it, not into it.
Outlines are SVG paths on a grid of ``GRID`` units along the longer side of the crop.

"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from balms_det.annotations.image_reader import read_image
from balms_det.annotations.masks import rle_to_mask
from balms_det.annotations.polygons import mask_to_polygons
from balms_det.evaluation.detections import Detections
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.report.examples import MISS, WRONG, Example, Shelf, in_turn
from balms_det.report.matching import NONE, Matches

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


ENTRY_BYTES = 64  # an example's own json, about


@dataclass
class Album:
    """Pictures and outlines, each stored once.

    Attributes:
        pictures: (data URI, width, height), the sizes in units of the outlines' grid.
        outlines: SVG paths.
        size: bytes that they and the examples take in the page, about.
        picture_size: bytes of the pictures alone.
    """

    pictures: list[tuple[str, int, int]] = field(default_factory=list)
    outlines: list[str] = field(default_factory=list)
    size: int = 0
    picture_size: int = 0

    def add_picture(self, uri: str, region: Region) -> int:
        self.pictures.append((uri, *grid_size(region)))
        self.size += len(uri)
        self.picture_size += len(uri)
        return len(self.pictures) - 1

    def add_outline(self, path: str) -> int:
        self.outlines.append(path)
        self.size += len(path)
        return len(self.outlines) - 1


def read_picture(path: str, size: tuple[int, int]) -> Image.Image:
    """Read an image as RGB, as training and evaluation read it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read or is not of ``size`` (height, width).
    """
    try:
        picture = Image.fromarray(read_image(path, "RGB"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error
    if picture.size != size[::-1]:
        raise ValueError(
            f"{path} is {picture.width} x {picture.height} pixels, the annotations say "
            f"{size[1]} x {size[0]}: is it the image root of this dataset?"
        )
    return picture


GRID = 96
PIXELS = 144  # longer side of a stored picture, at most
QUALITY = 62
_CONTEXT = 1.7  # side of a crop as a multiple of the object's longer side
_SMALLEST = 40  # pixels: a tiny object is shown with what is around it

Region = tuple[int, int, int, int]


def crop_region(box: np.ndarray, height: int, width: int) -> Region:
    """Region around a box (x, y, width, height), moved into the image where it sticks out."""
    x, y, w, h = (float(v) for v in box)
    side = max(_CONTEXT * max(w, h), _SMALLEST)
    x0, x1 = _interval(x + w / 2, side, width)
    y0, y1 = _interval(y + h / 2, side, height)
    return x0, y0, x1, y1


def _interval(centre: float, side: float, size: int) -> tuple[int, int]:
    side = min(round(side), size)
    start = min(max(round(centre - side / 2), 0), size - side)
    return start, start + side


def grid_size(region: Region) -> tuple[int, int]:
    """Width and height of a region on the grid of the outlines."""
    x0, y0, x1, y1 = region
    scale = GRID / max(x1 - x0, y1 - y0)
    return max(round((x1 - x0) * scale), 1), max(round((y1 - y0) * scale), 1)


def encode_crop(picture: Image.Image, region: Region, pixels: int = PIXELS) -> str:
    """The region as a data URI, at most ``pixels`` wide and high; small ones keep their size."""
    crop = picture.crop(region)
    crop.thumbnail((pixels, pixels), Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = io.BytesIO()
    crop.save(file, format="WEBP", quality=QUALITY, method=0)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def mask_path(rle: dict, region: Region) -> str:
    """SVG path of a mask's outline in a region; empty where the mask lies outside it."""
    x0, y0, x1, y1 = region
    mask = rle_to_mask(rle)[y0:y1, x0:x1]
    scale = GRID / max(mask.shape)
    width, height = grid_size(region)
    rows = (np.arange(height) / scale).astype(int).clip(max=mask.shape[0] - 1)
    columns = (np.arange(width) / scale).astype(int).clip(max=mask.shape[1] - 1)
    polygons = mask_to_polygons(mask[np.ix_(rows, columns)], tolerance=0.8)
    return "".join(_closed(np.reshape(polygon, (-1, 2))) for polygon in polygons)


def box_path(box: np.ndarray, region: Region) -> str:
    """SVG path of a box (x, y, width, height) in a region."""
    x0, y0, x1, y1 = region
    scale = GRID / max(x1 - x0, y1 - y0)
    left, top = (box[:2] - (x0, y0)) * scale
    right, bottom = (box[:2] + box[2:] - (x0, y0)) * scale
    return _closed(np.array([(left, top), (right, top), (right, bottom), (left, bottom)]))


def _closed(points: np.ndarray) -> str:
    whole = np.round(points).astype(int)
    whole = whole[np.r_[True, (np.diff(whole, axis=0) != 0).any(1)]]
    return "M" + " ".join(f"{x},{y}" for x, y in whole.tolist()) + "Z"
