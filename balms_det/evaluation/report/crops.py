"""Small pictures around objects, and outlines to draw over them in the browser.

A crop is a square region ``(x0, y0, x1, y1)`` of an image in whole pixels, cut off at its borders.
Examples that look at the same instance share a crop: outlines are drawn over it, not into it.
Outlines are SVG paths on a grid of ``GRID`` units along the longer side of the crop.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from balms_det.data.icons.polygons import mask_to_polygons
from balms_det.data.masks import rle_to_mask

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
