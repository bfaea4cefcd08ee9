"""Detections in columns, and the limits on how many of them count."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from balms_det.evaluation.ground_truth import GroundTruth

# pycocotools 2.0 overflows on longer lists of RLEs with numpy 2.4.
_AREA_CHUNK = 128


@dataclass(frozen=True, eq=False)
class Detections:
    """N detections; images and categories are ranks of the ground truth's ids.

    Attributes:
        image: (N,) int64.
        category: (N,) int64.
        score: (N,) float64, finite.
        box: (N, 4) float64, x, y, width, height in pixels; None where masks are evaluated.
        masks: N compressed RLEs; None where boxes are evaluated.
        area: (N,) float64 in pixels, of the mask or the box; None until it is measured.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    box: np.ndarray | None
    masks: list[dict] | None
    area: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.score)

    def take(self, kept: np.ndarray) -> Detections:
        """The detections at these ascending indices."""
        if len(kept) == len(self):
            return self
        columns = {f.name: _take(getattr(self, f.name), kept) for f in dataclasses.fields(self)}
        return Detections(**columns)

    def measured(self) -> Detections:
        """The same, with areas."""
        box = self.box
        area = mask_areas(self.masks) if box is None else box[:, 2] * box[:, 3]
        return dataclasses.replace(self, area=area)


def evaluated_detections(
    truth: GroundTruth, detections: Detections, per_image: int, per_category: int
) -> Detections:
    """What the official package evaluates of some detections, in its order, with areas.

    First the limits; a negative one is none. Then those of a category that is not verified on their
    image are left out, and last those without area: they have used up a place within the limit.
    """
    kept = best_of_each(detections.category, detections.score, per_category)
    detections = detections.take(kept)
    detections = detections.take(best_of_each(detections.image, detections.score, per_image))
    verified = truth.verified(detections.image, detections.category)
    detections = detections.take(np.flatnonzero(verified)).measured()
    return detections.take(np.flatnonzero(detections.area > 0))


def _take(column: Any, kept: np.ndarray) -> Any:
    if isinstance(column, list):
        return [column[n] for n in kept.tolist()]
    return None if column is None else column[kept]


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
    sizes = np.bincount(group, minlength=1)
    if limit < 0 or sizes.max() <= limit:
        return np.arange(len(group))
    order = np.lexsort((-score, group))
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(group)) - np.repeat(starts, sizes)
    return np.sort(order[place < limit])
