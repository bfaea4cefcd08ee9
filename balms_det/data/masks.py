"""COCO segmentations to masks and back. A mask is (H, W) bool, an RLE a compressed COCO RLE.

pycocotools believes what it is given: it crashes the process on a NaN, and takes any memory for an
outline that is long enough. So whatever comes from a file is checked here before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_util

# Larger coordinates, in pixels, are a mistake: no image is as large.
MAX_COORDINATE = 2**20


def segmentation_to_rle(segmentation: list | dict, height: int, width: int) -> dict:
    """One RLE for a COCO segmentation: polygons, or an RLE that may be uncompressed.

    The counts of a compressed RLE are taken as they are: see :func:`balms_det.data.rle.runs_fit`.

    Raises:
        ValueError: an RLE of another image size, or whose runs do not add up to it; a polygon of
            something else than numbers, or with a coordinate that is in no image.
    """
    if not isinstance(segmentation, (list, dict)):
        raise ValueError(f"A segmentation is polygons or an RLE, not {segmentation!r:.80}.")
    if not isinstance(segmentation, dict):
        polygons = [
            np.asarray(polygon, np.float64).reshape(-1).tolist() for polygon in segmentation
        ]
        check_polygons(polygons)
        return mask_util.merge(mask_util.frPyObjects(polygons, height, width))
    if tuple(segmentation["size"]) != (height, width):
        raise ValueError(
            f"An RLE mask is of size {tuple(segmentation['size'])} (height, width) in an image of "
            f"{(height, width)}: check the annotation file."
        )
    if isinstance(segmentation["counts"], list):
        _check_runs(segmentation["counts"], height * width)
        return mask_util.frPyObjects(segmentation, height, width)
    if not isinstance(segmentation["counts"], (str, bytes)):
        raise ValueError(f"The counts of an RLE are {segmentation['counts']!r:.80}, no RLE.")
    return segmentation


def check_polygons(polygons: Sequence[list[float]]) -> None:
    """Raise ValueError for a polygon [x1, y1, x2, y2, ...] that cannot be drawn."""
    for polygon in polygons:
        try:
            fits = math.isfinite(sum(polygon)) and (
                min(polygon) >= -MAX_COORDINATE and max(polygon) <= MAX_COORDINATE
            )
        except (TypeError, OverflowError):
            fits = False
        if not fits:
            raise ValueError(
                f"A polygon must hold numbers from -{MAX_COORDINATE} to {MAX_COORDINATE}, got "
                f"{polygon!r:.80}."
            )


def _check_runs(counts: list[int], pixels: int) -> None:
    whole = all(isinstance(run, int) and run >= 0 for run in counts)
    if not whole or sum(counts) != pixels:
        raise ValueError(
            f"The counts of an RLE must be whole numbers that add up to height times width, "
            f"{pixels}, got {counts!r:.80}."
        )


def mask_to_rle(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))


def rle_to_mask(rle: dict) -> np.ndarray:
    return mask_util.decode(rle).astype(bool)


def rles_overlap(first: dict, second: dict) -> bool:
    """Whether two masks share a pixel; fast, because nothing is decoded."""
    return mask_util.area(mask_util.merge([first, second], intersect=True)) > 0


def mask_to_box(mask: np.ndarray) -> list[int]:
    """[x0, y0, x1, y1] around a mask that is not empty; x1 and y1 are one past the last pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
