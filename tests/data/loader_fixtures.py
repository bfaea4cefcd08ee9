"""Nine images of two orientations and a loader of them, for the tests of the resumable loader."""

import itertools
import random

import numpy as np
import torch

from balms_det.data.draws import RepeatAwareSampler
from balms_det.data.resumable_loader import ResumableLoader, SeededMapDataset, landscape_images

FACTORS = torch.tensor([1.0, 2.5, 1.0, 3.3, 1.2, 1.0, 7.0, 1.0, 1.0])


def records(count=9):
    """Every third image is upright."""
    shapes = [(4, 6) if i % 3 else (6, 4) for i in range(count)]
    return [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(shapes)]


def random_mapper(record):
    """What a mapper may do: draw from all three generators, and keep what the draw carries."""
    noise = random.random(), np.random.rand(), torch.rand(1).item()
    return {**record, "noise": noise}


def make(batch_size=4, workers=0, grouping=True, seed=5, factors=FACTORS):
    images = records(len(factors))
    return ResumableLoader(
        SeededMapDataset(images, random_mapper, seed),
        RepeatAwareSampler(factors, seed=seed),
        total_batch_size=batch_size,
        landscape=landscape_images(images) if grouping else None,
        num_workers=workers,
    )


def take(loader, count):
    return list(itertools.islice(loader, count))


def ids(batches):
    return [[example["id"] for example in batch] for batch in batches]
