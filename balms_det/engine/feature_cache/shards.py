"""A shard: one safetensors file, seen whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from balms_det.data.fingerprint import file_sha256
from balms_det.engine.feature_cache.examples import Span
from balms_det.engine.feature_cache.layout import (
    FEATURES,
    FORMAT,
    FeatureCacheError,
    column,
    shard_name,
)
from balms_det.engine.feature_cache.manifest import ShardEntry
from balms_det.files import atomic_path

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
