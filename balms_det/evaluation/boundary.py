"""Boundary IoU (arXiv 2103.16562): how well two masks agree along their contours.

The boundary of a mask is its pixels within ``d`` pixels of its contour, ``d`` being 2 % of the
image diagonal; the border of the image belongs to the contour. The 2021 LVIS challenge takes the
smaller of mask IoU and the IoU of the boundaries.
"""

from __future__ import annotations

import math

import numpy as np
from pycocotools import mask as mask_api

from balms_det.data.masks import mask_to_rle, rle_to_mask

DILATION = 0.02


def boundary_width(height: int, width: int, dilation: float = DILATION) -> int:
    """``d`` in pixels, at least 1."""
    return max(1, round(dilation * math.hypot(height, width)))


def rle_boundary(rle: dict, dilation: float = DILATION) -> dict:
    """The boundary of a mask, as a compressed RLE of the same size.

    Args:
        rle: compressed RLE.
        dilation: ``d`` as a share of the image diagonal.
    """
    x, y, columns, rows = (int(value) for value in mask_api.toBbox(rle))
    mask = rle_to_mask(rle)
    inside = mask[y : y + rows, x : x + columns]  # a view: what is cut away is all background
    inside &= ~_eroded(inside, boundary_width(*rle["size"], dilation))
    return mask_to_rle(mask)


def _eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """The pixels whose square of 2 * steps + 1 pixels a side lies in the mask, (H, W) bool.

    It is ``steps`` erosions with a 3 x 3 square, background outside. A square is full if the number
    of its pixels is; the numbers come from running sums, one axis after the other.
    """
    side = 2 * steps + 1
    for _ in range(2):
        counts = np.cumsum(np.pad(mask, ((steps + 1, steps), (0, 0))), axis=0, dtype=np.int32)
        mask = (counts[side:] - counts[:-side] == side).T
    return mask
