"""Detections in columns, and the limits on how many of them count."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_api

# pycocotools 2.0 overflows on longer lists of RLEs with numpy 2.4.
_AREA_CHUNK = 128


@dataclass(frozen=True, eq=False)
class Detections:
    """N detections; images and categories are ranks of the ground truth's ids.

    Attributes:
        image: (N,) int64.
        category: (N,) int64.
        score: (N,) float64, finite.
        box: (N, 4) float64, x, y, width, height in pixels; zeros where masks are evaluated.
        area: (N,) float64, of the mask where masks are evaluated, else of the box.
        masks: N compressed RLEs, or None.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    box: np.ndarray
    area: np.ndarray
    masks: list[dict] | None

    def __len__(self) -> int:
        return len(self.score)

    def take(self, kept: np.ndarray) -> Detections:
        """The detections at these ascending indices."""
        columns = {
            field.name: getattr(self, field.name)[kept]
            for field in dataclasses.fields(self)
            if field.name != "masks"
        }
        masks = None if self.masks is None else [self.masks[n] for n in kept.tolist()]
        return Detections(**columns, masks=masks)


def mask_areas(masks: Sequence[dict]) -> np.ndarray:
    """(N,) float64, pixels of each compressed RLE."""
    starts = range(0, len(masks), _AREA_CHUNK)
    parts = [mask_api.area(list(masks[s : s + _AREA_CHUNK])) for s in starts]
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)


def best_of_each(group: np.ndarray, score: np.ndarray, limit: int) -> np.ndarray:
    """Indices, ascending, of the ``limit`` highest scores of each group.

    Of equal scores the earlier ones stay, as with the stable sort of the official package.

    Args:
        group: (N,) whole numbers from 0.
        score: (N,) finite scores.
        limit: a negative one is no limit.
    """
    if limit < 0 or not len(group) or np.bincount(group).max() <= limit:
        return np.arange(len(group))
    order = np.lexsort((-score, group))
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(group)) - np.repeat(starts, sizes)
    return np.sort(order[place < limit])
