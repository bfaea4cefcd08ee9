"""COCO segmentations to masks and back. A mask is (H, W) bool, an RLE a compressed COCO RLE."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_util


def segmentation_to_rle(segmentation: list | dict, height: int, width: int) -> dict:
    """One RLE for a COCO segmentation: polygons, or an RLE that may be uncompressed.

    Raises:
        ValueError: it is an RLE of another image size.
    """
    if not isinstance(segmentation, dict):
        polygons = [
            np.asarray(polygon, np.float64).reshape(-1).tolist() for polygon in segmentation
        ]
        return mask_util.merge(mask_util.frPyObjects(polygons, height, width))
    if tuple(segmentation["size"]) != (height, width):
        raise ValueError(
            f"An RLE mask is of size {tuple(segmentation['size'])} (height, width) in an image of "
            f"{(height, width)}: check the annotation file."
        )
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


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
