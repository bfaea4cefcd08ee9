"""Generate a feature cache of the size of LVIS v1 train: its classes, their counts, its layout.

Features are random, as are boxes; everything is written by the code that writes real caches.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from balms_det.data import ClassStats
from balms_det.features import FeatureCache, Manifest
from balms_det.features.make import check_room
from balms_det.features.manifest import ClassCounts, Settings, ShardEntry, Source, column
from balms_det.features.shards import plan_shards, write_shard

# RoIs of an image as generated: half of them foreground.
FOREGROUND, BACKGROUND = 64, 64
SHARD_IMAGES = 400
# An RoI beside its features: class, IoU, box, image, object, one extra class.
LABEL_BYTES = 4 + 4 + 16 + 4 + 8 + 4


def generate(folder: Path, rois: int, dim: int, seed: int = 0) -> tuple[FeatureCache, float]:
    """Write a cache; returns it and the seconds that writing took, without the drawing."""
    stats = ClassStats.from_dataset("lvis_v1_train")
    settings = _settings(stats, rois // (FOREGROUND + BACKGROUND))
    check_room(folder, rois * (2 * dim + LABEL_BYTES))
    generator = np.random.default_rng(seed)
    entries, seconds = [], 0.0
    for span in plan_shards(settings.num_images, 1, SHARD_IMAGES):
        columns = _columns(span.start, span.stop, dim, stats, generator)
        sampled = [(1.0, 4.0)]  # a quarter is foreground, as Detectron2 samples
        start = time.perf_counter()
        entries.append(write_shard(folder, span, settings.digest(), columns, sampled))
        seconds += time.perf_counter() - start
    _manifest(settings, stats, dim, tuple(entries)).write(folder)
    return FeatureCache.open(folder, verify=False), seconds


def _settings(stats: ClassStats, num_images: int) -> Settings:
    return Settings(
        purpose="train",
        weights_sha256="generated",
        model_sha256="generated",
        datasets=(Source(name="lvis_v1_train", sha256="generated"),),
        num_images=num_images,
        images_sha256="generated",
        num_classes=stats.num_classes,
        class_names=stats.names,
        views=1,
        augmented=False,
        background=BACKGROUND,
        seed=0,
        dtype="float16",
        shard_images=SHARD_IMAGES,
    )


def _manifest(
    settings: Settings, stats: ClassStats, dim: int, shards: tuple[ShardEntry, ...]
) -> Manifest:
    counts = ClassCounts(
        image_count=tuple(stats.image_count.tolist()),
        instance_count=tuple(stats.instance_count.tolist()),
        num_images=stats.num_images,
        frequency=stats.frequency,
    )
    return Manifest(
        **vars(settings),
        config="",
        class_counts=counts,
        image_ids=tuple(range(settings.num_images)),
        feature_dim=dim,
        shards=shards,
    )


def _columns(
    start: int, stop: int, dim: int, stats: ClassStats, generator: np.random.Generator
) -> dict[str, Tensor]:
    """A shard's columns: classes as frequent as in LVIS, and features that a ReLU has made."""
    images = torch.arange(start, stop, dtype=torch.int32).repeat_interleave(FOREGROUND + BACKGROUND)
    rois = len(images)
    foreground = torch.arange(rois) % (FOREGROUND + BACKGROUND) < FOREGROUND
    drawn = generator.choice(stats.num_classes, rois, p=stats.instance_frequency)
    classes = torch.where(foreground, torch.from_numpy(drawn), stats.num_classes)
    features = torch.from_numpy(generator.standard_normal((rois, dim), np.float32)).relu_().half()
    own = {
        "features": features,
        "gt_classes": classes.int(),
        "ious": torch.rand(rois),
        "boxes": torch.rand(rois, 4),
        "image": images,
        "objects": torch.where(foreground, torch.arange(rois), -1),
        "extra_classes": torch.full((rois, 1), -1, dtype=torch.int32),
    }
    return {column(0, name): values for name, values in own.items()}
