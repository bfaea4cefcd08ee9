"""The recorded examples of one shard, until it is written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from balms_det.engine.feature_cache.layout import (
    DTYPES,
    EVAL,
    EXTRA_CLASSES,
    FEATURES,
    GT_CLASSES,
    IMAGE,
    OBJECT_STRIDE,
    OBJECTS,
    FeatureCacheError,
    column,
)
from balms_det.engine.feature_cache.manifest import Settings
from balms_det.engine.feature_cache.regions import merge_regions
from balms_det.engine.feature_cache.roi_columns import Recorded


class Collected:
    """Gathers examples, and gives the columns of a shard."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._parts: dict[str, list[Tensor]] = {}
        self._sampled: list[list[tuple[float, float]]] = []

    def add(self, view: int, image: int, recorded: Recorded) -> None:
        """Add one example.

        Raises:
            FeatureCacheError: a feature is not finite in the cache's type.
        """
        columns = dict(recorded.columns)
        for stage in range(len(recorded.sampled)):
            features = column(stage, FEATURES)
            columns[features] = self._stored(columns[features], image)
            if self.settings.purpose != EVAL:
                self._number(columns, stage, view, image)
        for name, values in columns.items():
            self._parts.setdefault(name, []).append(values)
        self._sampled.append(recorded.sampled)

    def _stored(self, features: Tensor, image: int) -> Tensor:
        stored = features.to(DTYPES[self.settings.dtype])
        if not torch.isfinite(stored).all():
            raise FeatureCacheError(
                f"image number {image}: a feature is not finite in {self.settings.dtype}. If it is "
                "in the detector, cache in float32"
            )
        return stored

    def _number(self, columns: dict[str, Tensor], stage: int, view: int, image: int) -> None:
        """Set the image of the RoIs, and make the numbers of their objects unique."""
        rois = len(columns[column(stage, GT_CLASSES)])
        columns[column(stage, IMAGE)] = torch.full((rois,), image, dtype=torch.int32)
        own = columns[column(stage, OBJECTS)]
        first = (view * self.settings.num_images + image) * OBJECT_STRIDE
        columns[column(stage, OBJECTS)] = torch.where(own >= 0, first + own, own)

    def columns(self) -> dict[str, Tensor]:
        """Of the shard, by name."""
        if self.settings.purpose == EVAL:
            return merge_regions(self._parts)
        return {
            name: torch.cat(_equally_wide(parts) if name.endswith(EXTRA_CLASSES) else parts)
            for name, parts in self._parts.items()
        }

    def sampled(self) -> list[tuple[float, float]]:
        """Sums over the examples, by stage."""
        stages = zip(*self._sampled)
        return [tuple(sum(values) for values in zip(*stage)) for stage in stages]


def _equally_wide(parts: Sequence[Tensor]) -> list[Tensor]:
    width = max(part.shape[1] for part in parts)
    return [pad(part, (0, width - part.shape[1]), value=-1) for part in parts]
