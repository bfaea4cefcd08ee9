"""What the class counts of the training set say: frequencies, bins and groups of classes.

Symbols: see :mod:`balms_det.losses.core.base`, and
    n_c   training count of class c: its images or its instances
    f_c   share of the training images that hold class c

Everything here is a constant of a training set: a loss keeps it in non-persistent buffers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Counts of classes that were never seen are read as this, where a logarithm is taken of them.
MIN_COUNT = 0.5

#: Groups of :func:`frequency_groups`.
RARE, COMMON, FREQUENT = 0, 1, 2


def class_counts(class_stats: Any, counts: str) -> tuple[Tensor, float]:
    """The counts of the classes, (K,) float64, and the total that they are shares of.

    Args:
        class_stats: see :class:`balms_det.losses.BoxLoss`.
        counts: "image" (of ``num_images``) or "instance" (of all instances).

    Raises:
        ValueError: another value of ``counts``.
    """
    if counts not in ("image", "instance"):
        raise ValueError(f"counts must be 'image' or 'instance', got {counts!r}")
    # Through a list: arrays may be read-only, and the loss must not share their memory.
    numbers = [float(n) for n in getattr(class_stats, f"{counts}_count")]
    total = float(class_stats.num_images) if counts == "image" else sum(numbers)
    return torch.tensor(numbers, dtype=torch.float64), total


def image_frequency(class_stats: Any) -> Tensor:
    """f_c, (K,) float64 in [0, 1]; all zeros for a training set without images."""
    count, total = class_counts(class_stats, "image")
    return count / max(total, 1.0)


def count_bins(count: Tensor, edges: Sequence[float]) -> Tensor:
    """The bin of every class, (K,) integers in [0, len(edges)]: how many edges are <= its count.

    Args:
        count: (K,) counts.
        edges: increasing borders; a count that equals one is in the bin above it.

    Raises:
        ValueError: ``edges`` are not increasing.
    """
    if list(edges) != sorted(set(edges)):
        raise ValueError(f"edges of bins must increase, got {list(edges)}")
    return torch.bucketize(count, torch.tensor(list(edges), dtype=count.dtype), right=True)


def frequency_groups(class_stats: Any, rare_max: float = 10, common_max: float = 100) -> Tensor:
    """LVIS's group of every class, (K,) of RARE, COMMON and FREQUENT, by its training images.

    Args:
        class_stats: see :class:`balms_det.losses.BoxLoss`.
        rare_max, common_max: the most images of a rare and of a common class.

    Raises:
        ValueError: ``common_max`` is not above ``rare_max``.
    """
    if not rare_max < common_max:
        raise ValueError(f"common_max must be above rare_max, got {common_max} and {rare_max}")
    count, _ = class_counts(class_stats, "image")
    return torch.bucketize(count, torch.tensor([rare_max, common_max], dtype=count.dtype))
