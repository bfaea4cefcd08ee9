"""What the training samplers cost at the size of LVIS v1 train.

    python benchmarks/samplers.py

Prints, for every sampler, the seconds from dataset dicts to repeat factors and to the first draw,
as a ratio to Detectron2's own loop over the same dicts in the same run; then the resident memory of
the loader's workers as they go round the data, with the slope of a straight line through it.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.data import samplers as d2_samplers
from PIL import Image

from balms_det import add_balms_config
from balms_det.data.draws import DrawAwareDataset
from balms_det.data.mapper import RepeatFactorDatasetMapper
from balms_det.data.samplers import SAMPLER_REGISTRY, build_sampler

IMAGES, INSTANCES, CLASSES = 100_170, 1_270_141, 1_203
BATCH_SIZE = 16


def long_tail_dicts(images: int, instances: int, classes: int, path: str) -> list[dict]:
    """Dataset dicts with power-law class counts; every image is the file ``path``."""
    rng = np.random.default_rng(0)
    share = np.arange(1, classes + 1, dtype=float) ** -1.6
    category = rng.choice(classes, instances, p=share / share.sum())
    category[:classes] = np.arange(classes)  # every class occurs
    image = rng.integers(0, images, instances)
    records = [
        {"file_name": path, "image_id": i, "height": 48, "width": 64, "annotations": []}
        for i in range(images)
    ]
    box = {"bbox": [8.0, 8.0, 40.0, 40.0], "bbox_mode": 0}
    for i, c in zip(image.tolist(), category.tolist()):
        records[i]["annotations"].append({"category_id": c, "iscrowd": 0, **box})
    return records


def config(sampler: str) -> CfgNode:
    cfg = get_cfg()
    add_balms_config(cfg)
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.001
    cfg.INPUT.MIN_SIZE_TRAIN = (48,)
    cfg.SEED = 0
    return cfg


def seconds(function: Callable) -> tuple[float, object]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def detectron2_first_draw(records: list[dict]) -> int:
    sampler_class = d2_samplers.RepeatFactorTrainingSampler
    factors = sampler_class.repeat_factors_from_category_frequency(records, 0.001)
    return next(iter(sampler_class(factors, seed=0)))


def time_samplers(records: list[dict]) -> None:
    theirs, _ = seconds(lambda: detectron2_first_draw(records))
    print(f"{'Detectron2, RepeatFactorTrainingSampler':<42}{theirs:>7.2f} s")
    for name, _ in sorted(SAMPLER_REGISTRY):
        built, sampler = seconds(lambda name=name: build_sampler(config(name), records))
        drawn, _ = seconds(lambda sampler=sampler: next(iter(sampler)))
        total = built + drawn
        print(
            f"{name:<42}{total:>7.2f} s = {total / theirs:.2f} of Detectron2's "
            f"({built:.2f} to build, {drawn:.2f} to the first draw)"
        )


def worker_memory(records: list[dict], batches: int, workers: int) -> None:
    """Print the unique memory of a worker (no shared pages), early and late, and its slope."""
    cfg = config("ClassBalancedTrainingSampler")
    mapper = RepeatFactorDatasetMapper(cfg, is_train=True)
    loader = build_detection_train_loader(
        DrawAwareDataset(DatasetFromList(records, copy=False), mapper),
        mapper=None,
        sampler=build_sampler(cfg, records),
        total_batch_size=BATCH_SIZE,
        num_workers=workers,
    )
    samples = []
    for batch, _ in zip(range(batches), loader):
        if batch % 10 == 0:
            children = psutil.Process().children(recursive=True)
            uss = [child.memory_full_info().uss / 2**20 for child in children]
            samples.append((batch, np.mean(uss)))
    # The first half is start-up: a worker copies every inherited page that it touches, once.
    steady = np.array(samples[len(samples) // 2 :])
    slope = np.polyfit(steady[:, 0], steady[:, 1], 1)[0]
    print(
        f"{workers} workers, batches {steady[0, 0]:.0f} to {steady[-1, 0]:.0f} of {BATCH_SIZE}: "
        f"{steady[0, 1]:.1f} to {steady[-1, 1]:.1f} MiB each, {slope * 1000:+.2f} MiB per 1,000"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--instances", type=int, default=INSTANCES)
    parser.add_argument("--classes", type=int, default=CLASSES)
    parser.add_argument("--batches", type=int, default=2000, help="for the memory of the workers")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "image.jpg")
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(path)
        size = arguments.images, arguments.instances, arguments.classes
        records = long_tail_dicts(*size, path)
        print("{:,} images, {:,} instances, {:,} classes".format(*size))
        time_samplers(records)
        worker_memory(records, arguments.batches, arguments.workers)


if __name__ == "__main__":
    main()
