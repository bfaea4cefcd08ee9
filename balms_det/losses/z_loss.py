"""Z-loss (de Brebisson and Vincent, "The Z-loss: a Shift and Scale Invariant Classification Loss
Belonging to the Spherical Family", 2016).

Symbols: see :mod:`balms_det.losses.core.base`, and
    u_c   ``(z_c - mean(z)) / std(z)`` over the K + 1 logits of a RoI; at most ``sqrt(K)``
    a, b  sharpness of the loss, and the u_c that is aimed at
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY, full_precision
from balms_det.losses.core.families import SoftmaxFamily

MIN_VARIANCE = 1e-12  # logits that are all alike have scores alike, and a gradient


def z_scores(logits: Tensor) -> Tensor:
    """Logits of mean 0 and standard deviation 1 in every row, (R, L)."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + MIN_VARIANCE).sqrt()


@BOX_LOSS_REGISTRY.register()
class ZLoss(SoftmaxFamily):
    """``softplus(a (b - u_y)) / a`` (equation 3): blind to the scale and shift of logits.

    The paper tunes a and b and has no default; b must lie below ``sqrt(K)``, which no u_c exceeds.
    Nor does it define scores: here they are the softmax of u. With K = 1 a
    RoI's u are -1 and 1 whatever its logits are, so nothing is learned.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; counts are not read.
        a: sharpness; the loss tends to ``max(0, b - u_y)`` as it grows.
        b: u_y that is aimed at; None for ``0.8 * sqrt(K)`` (27.7 at K = 1203).

    Raises:
        ValueError: ``a`` is not positive.
    """

    needs_class_stats = False

    def __init__(
        self, num_classes: int, class_stats: Any = None, *, a: float = 1.0, b: float | None = None
    ):
        super().__init__(num_classes, class_stats)
        if a <= 0:
            raise ValueError(f"a must be positive, got {a}")
        self.a = a
        self.b = 0.8 * math.sqrt(num_classes) if b is None else b

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        # Of the label's u alone: the statistics of a row are all that the other logits are for.
        centred = logits - logits.mean(dim=1, keepdim=True)
        norm = torch.linalg.vector_norm(centred, dim=1)
        own = centred.gather(1, gt_classes.unsqueeze(1)).squeeze(1)
        own = own / (norm.square() / logits.shape[1] + MIN_VARIANCE).sqrt()
        return F.softplus(self.a * (self.b - own)) / self.a

    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return self.per_roi(logits, gt_classes)

    def scores(self, logits: Tensor) -> Tensor:
        return F.softmax(z_scores(full_precision(logits)), dim=1)
