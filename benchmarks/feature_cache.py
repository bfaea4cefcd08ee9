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

import torch
from lvis_sized_cache import LABEL_BYTES, generate
from torch import Tensor

from balms_det.data import ClassStats
from balms_det.features import FeatureCache, RoITable

BATCH = 1024
# Batches that are timed.
GATHERED = {"cold": 20, "warm": 500}
MEBIBYTE = 2**20


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
    for seed in (1, 2):
        gather_seconds(table, 2 * GATHERED["warm"], seed)
        memory.append(anonymous_memory())
    told = ", ".join(f"{size:.0f}" for size in memory)
    print(f"memory at first, after 20, 520, 1,520 and 2,520 batches: {told} MiB")


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
