"""Pairwise Class Balance on Equalization loss v2.

Symbols: see :mod:`balms_det.losses.pairwise_class_balance` and
:mod:`balms_det.losses.equalization_v2`, and
    t   target of an output: 1 for the label, on foreground mixed with the soft label
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.base import BOX_LOSS_REGISTRY
from balms_det.losses.equalization_v2 import EQLv2Loss
from balms_det.losses.pairwise_class_balance import PairwiseBalance
from balms_det.losses.running_state import sum_over_ranks


@BOX_LOSS_REGISTRY.register()
class PCBEQLv2Loss(PairwiseBalance, EQLv2Loss):
    """EQLv2 whose foreground targets are ``(1 - alpha) * one-hot + alpha * p_t``.

    M is of sigmoid scores, and neither its rows nor the soft labels have sum 1. Soft targets also
    share out EQLv2's weights and gradients: t of a term counts as positive and 1 - t as negative.
    M moves before the loss and EQLv2's gradients after it.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        alpha, momentum, start_epoch, n_iter: see :class:`PCBLoss`.
        gamma, mu, alpha_eqlv2: gamma, mu and alpha of :class:`EQLv2Loss`.
        prior_prob: see :class:`EQLv2Loss`.

    Raises:
        ValueError: see :meth:`PairwiseBalance.start_balance` and :class:`EQLv2Loss`.
    """

    needs_class_stats = True
    normalised = False

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        alpha: float = 0.2,
        momentum: float = 0.99,
        start_epoch: float = 17,
        n_iter: int = 3,
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha_eqlv2: float = 4.0,
        prior_prob: float = 0.001,
    ):
        super().__init__(
            num_classes, class_stats, gamma=gamma, mu=mu, alpha=alpha_eqlv2, prior_prob=prior_prob
        )
        self.start_balance(
            class_stats, alpha=alpha, momentum=momentum, start_epoch=start_epoch, n_iter=n_iter
        )

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        # The weights of this batch: before its gradients are added.
        positive, negative = (weight.to(logits.dtype) for weight in self.class_weights())
        self.advance(logits, gt_classes)
        target = self._targets(gt_classes, logits.dtype)
        weights = torch.lerp(negative, positive, target)
        return F.binary_cross_entropy_with_logits(logits, target, weights, reduction="none").sum(
            dim=1
        )

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        score = logits.sigmoid()
        self.move_confusion(score[:, : self.num_classes], gt_classes)
        target = self._targets(gt_classes, logits.dtype)
        positive, negative = (weight.to(logits.dtype) for weight in self.class_weights())
        gradient = (score - target).abs() * torch.lerp(negative, positive, target)
        pulled = (gradient * target).sum(dim=0, dtype=torch.float64)
        pushed = gradient.sum(dim=0, dtype=torch.float64) - pulled
        sums = sum_over_ranks(torch.stack([pulled, pushed]))[:, :-1]
        self.pos_grad += sums[0]
        self.neg_grad += sums[1]
        self.pos_neg.copy_(self.pos_grad / (self.neg_grad + self.eps))

    def _targets(self, gt_classes: Tensor, dtype: torch.dtype) -> Tensor:
        """t, (R, K + 1)."""
        share = self.shares(gt_classes, dtype).unsqueeze(1)
        soft = F.pad(self.soft_labels(dtype)[gt_classes], (0, 1))
        one_hot = torch.zeros_like(soft).scatter_(1, gt_classes.unsqueeze(1), 1.0)
        return torch.lerp(one_hot, soft, share)
