"""Random subsets of a given size without reading a number back from the accelerator.

Symbols: see :mod:`balms_det.losses.base`.
"""

import math

import torch
from torch import Tensor


def lowest_keys(keys: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """The ``count`` eligible entries with the lowest keys, column by column, as a mask.

    With uniform keys it is a random subset of that size, drawn without replacement; with keys
    ``-log(1 - u) / w`` it is one drawn with probabilities in proportion to w (Efraimidis and
    Spirakis, 2006).

    Args:
        keys: (N,) or (N, B).
        eligible: of the same shape, boolean.
        count: () or (B,), how many to keep; where fewer are eligible, all of them.

    Returns:
        Boolean, of the shape of ``keys``.
    """
    rank = torch.where(eligible, keys, math.inf).argsort(dim=0).argsort(dim=0)
    return eligible & (rank < count)
