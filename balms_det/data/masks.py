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
# In pixels: half a gigabyte while it is drawn.
_LONGEST_OUTLINE = 2**23


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
            polygon.tolist() if hasattr(polygon, "tolist") else polygon for polygon in segmentation
        ]
        check_polygons(polygons, height, width)
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


def check_polygons(polygons: Sequence[list[float]], height: int, width: int) -> None:
    """Raise ValueError for polygons [x1, y1, x2, y2, ...] that cannot be drawn in an image."""
    if not len(polygons):
        raise ValueError("it has no polygon at all.")
    for polygon in polygons:
        _check_points(polygon)
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
        length, longest = outline_length(polygon), longest_outline(height, width)
        if length > longest:
            raise ValueError(
                f"the outline of a polygon is {length:.0f} pixels long, and an image of "
                f"{(height, width)} (height, width) has room for {longest}: points lie far outside."
            )


def _check_points(polygon: list[float]) -> None:
    if any(isinstance(value, (list, tuple)) for value in polygon):
        raise ValueError(
            f"a polygon is one list [x1, y1, x2, y2, ...], not a list of points: {polygon!r:.80}."
        )
    if len(polygon) < 6:
        box = ", which may be a box: write its four corners" if len(polygon) == 4 else ""
        raise ValueError(f"a polygon needs 3 points, it has {len(polygon)} numbers{box}.")
    if len(polygon) % 2:
        raise ValueError(f"a polygon needs x and y of each point, it has {len(polygon)} numbers.")


def outline_length(polygon: Sequence[float]) -> float:
    """Pixels that are walked around a polygon, each edge by its longer side."""
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def longest_outline(height: int, width: int) -> int:
    """The longest outline that is drawn, in pixels: more than any mask of the image has.

    pycocotools keeps every fifth of a pixel of an outline, and counts them in 32 bits.
    """
    return min(4 * (height + 64) * (width + 64), _LONGEST_OUTLINE)


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
