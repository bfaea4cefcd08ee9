"""A shard: one safetensors file, seen whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from balms_det.features.manifest import (
    DTYPES,
    EVAL,
    EXTRA_CLASSES,
    FEATURES,
    FORMAT,
    GT_CLASSES,
    IMAGE,
    OBJECT_STRIDE,
    OBJECTS,
    FeatureCacheError,
    Settings,
    ShardEntry,
    column,
    shard_name,
)
from balms_det.features.record import Recorded
from balms_det.features.regions import merge_regions
from balms_det.utils.file_cache import file_sha256
from balms_det.utils.files import atomic_path

# The one entry of a shard's metadata: a library may write several in any order, and equal shards
# are equal bytes.
METADATA = "balms_det"


class ShardLabel(msgspec.Struct, frozen=True):
    """What a shard says of itself: the settings that it follows from, and its place."""

    format: str
    settings: str
    view: int
    start: int
    stop: int
    sampled: tuple[tuple[float, float], ...]


def write_shard(
    folder: Path,
    span: Span,
    settings: str,
    columns: Mapping[str, Tensor],
    sampled: Sequence[tuple[float, float]],
) -> ShardEntry:
    """Write a shard; it appears under its name when all of it is on the disk.

    Args:
        folder: of the cache.
        span: its images.
        settings: digest of the cache's settings.
        columns: by name; contiguous.
        sampled: see :class:`ShardEntry`.

    Raises:
        FeatureCacheError: it could not be written, for instance to a full disk.
    """
    path = folder / shard_name(span.number)
    label = ShardLabel(FORMAT, settings, span.view, span.start, span.stop, tuple(sampled))
    metadata = {METADATA: msgspec.json.encode(label).decode()}
    try:
        with atomic_path(path) as part:
            save_file(dict(columns), part, metadata)
            _flush(part)
    except (SafetensorError, OSError) as error:
        raise FeatureCacheError(
            f"{path}: the shard could not be written ({error}). Finished shards are kept: make "
            "room and call again, and the cache goes on from them"
        ) from error
    return describe_shard(path, settings)


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def describe_shard(path: Path, settings: str) -> ShardEntry:
    """What the manifest says of a shard that is there; reads all of it.

    Raises:
        FeatureCacheError: it is damaged, or of a cache with other settings.
    """
    try:
        with safe_open(path, framework="pt") as shard:
            label = _label(path, shard.metadata())
            names = sorted(name for name in shard.keys() if name.endswith(f"/{FEATURES}"))  # noqa: SIM118
            rois = [shard.get_slice(name).get_shape()[0] for name in names]
    except (SafetensorError, OSError) as error:
        raise FeatureCacheError(f"{path}: the shard is damaged ({error}): delete it") from error
    if label.settings != settings:
        raise FeatureCacheError(
            f"{path}: the shard was made with another model, dataset or options. Choose another "
            "folder, or delete this one"
        )
    place = {"view": label.view, "start": label.start, "stop": label.stop}
    size, digest = path.stat().st_size, file_sha256(path)
    return ShardEntry(
        name=path.name,
        **place,
        bytes=size,
        sha256=digest,
        rois=tuple(rois),
        sampled=label.sampled,
    )


def _label(path: Path, metadata: Mapping[str, str] | None) -> ShardLabel:
    try:
        return msgspec.json.decode((metadata or {}).get(METADATA, ""), type=ShardLabel)
    except msgspec.DecodeError as error:
        raise FeatureCacheError(f"{path}: this is no shard of a feature cache") from error


def feature_dim(path: Path) -> int:
    """D of a shard."""
    with safe_open(path, framework="pt") as shard:
        return shard.get_slice(column(0, FEATURES)).get_shape()[1]


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


@dataclass(frozen=True)
class Span:
    """The images of one shard: ``start`` to ``stop - 1`` in one view."""

    number: int
    view: int
    start: int
    stop: int


def plan_shards(num_images: int, views: int, shard_images: int) -> list[Span]:
    """Every view cut into spans of ``shard_images`` images, the last shorter."""
    starts = [(view, i) for view in range(views) for i in range(0, num_images, shard_images)]
    return [
        Span(number, view, start, min(start + shard_images, num_images))
        for number, (view, start) in enumerate(starts)
    ]
