"""Random subsets of a given size without reading a number back from the accelerator.

Symbols: see :mod:`balms_det.losses.base`.
"""

import math
from collections.abc import Sequence

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


def coarse_uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uniform draws from (0, 1) in steps of 1 / 65,536, of the dtype and device of ``like``.

    Four for each of the generator's words: on a CPU half the time of ``torch.rand``.
    """
    words = torch.empty(-(-math.prod(shape) // 4), dtype=torch.int64, device=like.device)
    steps = words.random_(-(2**63), None).view(torch.int16)[: math.prod(shape)].view(shape)
    draws = steps.to(like.dtype)
    middle = like.new_full((), 0.5 + 2**-17)
    return torch.add(middle, draws, alpha=2**-16, out=draws)
