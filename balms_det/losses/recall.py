"""Recall loss (Tian et al., "Striking the Right Balance: Recall Loss for Semantic Segmentation",
ICRA 2022): classes weigh as much as their labels are missed.

Symbols: see :mod:`balms_det.losses.core.base`, and
    recall_c   share of the RoIs with label c whose highest logit is c; background is a class too
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.families import SoftmaxFamily
from balms_det.losses.core.state import class_sums, moving_average_


@BOX_LOSS_REGISTRY.register()
class RecallLoss(SoftmaxFamily):
    """Cross-entropy of which a RoI with label c has ``1 - recall_c`` (equation 5).

    The recall, moved *before* the loss, is that of the current batch over all ranks. The authors'
    code counts at least one miss a class, so a class that is found everywhere still learns; the
    equation does not.

    State: ``miss_rate`` (K + 1,) float64, ``1 - recall``, 1 for a class never seen.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; counts are not read.
        momentum: share of its miss rate that a class keeps in a batch where it occurs; 0 is
            the recall of the batch alone, more suits batches with a few RoIs of each class.
        min_misses: fewest misses of a class in a batch: 1 is the authors' code, 0 the equation.

    Raises:
        ValueError: ``momentum`` outside [0, 1) or negative ``min_misses``.
    """

    needs_class_stats = False
    has_detached_factors = True

    def __init__(
        self,
        num_classes: int,
        class_stats: Any = None,
        *,
        momentum: float = 0.0,
        min_misses: float = 1.0,
    ):
        super().__init__(num_classes, class_stats)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        if min_misses < 0:
            raise ValueError(f"min_misses must not be negative, got {min_misses}")
        self.momentum = momentum
        self.min_misses = min_misses
        self.register_buffer("miss_rate", torch.ones(num_classes + 1, dtype=torch.float64))

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        self.advance(logits, gt_classes)
        weights = self.miss_rate.to(logits.dtype)[gt_classes]
        return weights * F.cross_entropy(logits, gt_classes, reduction="none")

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        missed = logits.argmax(dim=1) != gt_classes if len(logits) else gt_classes
        rois, misses = class_sums(gt_classes, self.num_classes + 1, missed)
        rate = misses.clamp(min=self.min_misses) / rois
        moving_average_(self.miss_rate, rate, self.momentum, rois > 0)
