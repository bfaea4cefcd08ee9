"""Seeds that depend on what is drawn and not on when: the ground of exactly resumable training.

A random decision is seeded by its purpose and its numbers, for example ("draw", seed, position of
the draw). Then neither the number of workers or ranks nor a restart of the run changes it.
"""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Iterator

import numpy as np
import torch


def derived_seed(purpose: str, *numbers: int) -> int:
    """A seed in [0, 2**63) for one purpose; other purposes or numbers give unrelated ones.

    ``numbers`` are not negative.
    """
    words = np.random.SeedSequence([zlib.crc32(purpose.encode()), *numbers])
    return int(words.generate_state(1, np.uint64)[0]) >> 1  # numpy 1 shifts no uint64 by an int


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch, those of CUDA devices included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def local_randomness(seed: int) -> Iterator[None]:
    """Inside, the global generators of the CPU are seeded; afterwards they are as they were."""
    # Not torch.manual_seed: that also seeds CUDA, whose generators a mapper does not use.
    cpu = torch.default_generator
    before = random.getstate(), np.random.get_state(), cpu.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    cpu.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        cpu.set_state(before[2])
