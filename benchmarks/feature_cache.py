#!/usr/bin/env python3
"""A feature cache of LVIS's size: writing, opening and reading it, and the arithmetic of all of it.

    python benchmarks/feature_cache.py [--folder FOLDER] [--rois 2097152] [--dim 1024]

Generates a cache with the classes, the counts and the layout of LVIS v1 train, random features in
it, through the code that writes real ones (checksums and flushing to disk included); needs 2,088
bytes a RoI for a while. Then it opens it with and without checksums, and gathers random batches of
1,024 RoIs: cold, when the system has dropped the files from its memory, and warm. Memory is the
anonymous part of the process's (``RssAnon``): the mapped pages are the system's, which takes them
back at will.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from balms_det.data import ClassStats
from balms_det.engine.feature_cache import FeatureCache, Manifest, RoITable
from balms_det.engine.feature_cache.disk import check_room
from balms_det.engine.feature_cache.examples import plan_shards
from balms_det.engine.feature_cache.layout import column
from balms_det.engine.feature_cache.manifest import ClassCounts, Settings, ShardEntry, Source
from balms_det.engine.feature_cache.shards import write_shard

# RoIs of an image as generated: half of them foreground.
FOREGROUND, BACKGROUND = 64, 64
SHARD_IMAGES = 400
BATCH = 1024
# Batches that are timed.
GATHERED = {"cold": 20, "warm": 500}
# An RoI beside its features: class, IoU, box, image, object, one extra class.
LABEL_BYTES = 4 + 4 + 16 + 4 + 8 + 4
MEBIBYTE = 2**20


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


def drop_from_memory(cache: FeatureCache) -> None:
    """Ask the system to forget the files, so that the next reads come from the disk."""
    for shard in cache.manifest.shards:
        with open(cache.folder / shard.name, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def batches(table: RoITable, number: int, seed: int) -> Iterator[Tensor]:
    """Random batches of RoIs."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        yield torch.randint(len(table), (BATCH,), generator=generator)


def read_into_memory(cache: FeatureCache) -> None:
    """Have the system keep the files in its memory, as far as they fit."""
    for shard in cache.manifest.shards:
        with open(cache.folder / shard.name, "rb") as file:
            while file.read(16 * MEBIBYTE):
                pass


def gather_seconds(table: RoITable, number: int, seed: int) -> tuple[float, float]:
    """Median seconds of gathering features and labels of a batch: passed, and of the processor."""
    passed, worked = [], []
    for index in batches(table, number, seed):
        start = time.perf_counter(), time.process_time()
        features, labels = table.gather(index), table.gt_classes[index]
        passed.append(time.perf_counter() - start[0])
        worked.append(time.process_time() - start[1])
        assert features.shape[0] == len(labels) == BATCH
    return statistics.median(passed), statistics.median(worked)


def anonymous_memory() -> float:
    """Mebibytes of this process that are no pages of a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def measure_reading(folder: Path) -> None:
    """Open and read a cache, and print what it takes."""
    size = sum(path.stat().st_size for path in folder.glob("shard-*")) / MEBIBYTE
    start = time.perf_counter()
    cache = FeatureCache.open(folder)
    seconds = time.perf_counter() - start
    print(f"open, checksums verified: {seconds:.1f} s, {size / seconds:.0f} MiB/s")
    start = time.perf_counter()
    cache = FeatureCache.open(folder, verify=False)
    table = cache.stage(0)
    assert len(table.gt_classes) == len(table)
    print(f"open, sizes only, labels in memory: {time.perf_counter() - start:.2f} s")
    memory = [anonymous_memory()]
    for name, prepare in (("cold", drop_from_memory), ("warm", read_into_memory)):
        prepare(cache)
        passed, worked = gather_seconds(table, GATHERED[name], seed=GATHERED[name])
        memory.append(anonymous_memory())
        print(
            f"gather {BATCH} RoIs, {name}: {1000 * passed:.2f} ms, {BATCH / passed:,.0f} RoIs/s; "
            f"of the processor {1000 * worked:.2f} ms"
        )
    told = ", ".join(f"{size:.0f}" for size in memory)
    print(f"memory before, after the cold and after the warm batches: {told} MiB")


def print_arithmetic(dim: int, bytes_per_second: float) -> None:
    """What a cache of all of LVIS v1 train takes."""
    images = ClassStats.from_dataset("lvis_v1_train").num_images
    print(f"\nLVIS v1 train, {images:,} images, D = {dim}, fp16, a view:")
    for kept, text in (
        (512, "512 RoIs an image, as the detector samples"),
        (128 + 64, "128 foreground, the most it samples, and 64 background"),
        (128 + 16, "128 foreground and 16 background"),
    ):
        size = images * kept * (2 * dim + LABEL_BYTES)
        minutes = size / bytes_per_second / 60
        print(f"  {text}: {size / 1e9:.0f} GB, written in {minutes:.0f} min by one rank")
    for rate in (5, 20):
        hours = images / rate / 3600
        print(f"  a GPU at {rate} images/s: {hours:.1f} h; 8 of them: {60 * hours / 8:.0f} min")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one")
    parser.add_argument("--rois", type=int, default=2**21)
    parser.add_argument("--dim", type=int, default=1024)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="balms_det-cache-") as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        cache, seconds = generate(folder, args.rois, args.dim)
        size = sum(shard.bytes for shard in cache.manifest.shards)
        number, shards = cache.manifest.num_rois(), len(cache.manifest.shards)
        print(f"{number:,} RoIs x {args.dim}, {shards} shards, {size / 1e9:.2f} GB")
        print(f"write, flush and checksum: {seconds:.1f} s, {size / seconds / MEBIBYTE:.0f} MiB/s")
        measure_reading(folder)
        print_arithmetic(args.dim, size / seconds)


if __name__ == "__main__":
    main()
