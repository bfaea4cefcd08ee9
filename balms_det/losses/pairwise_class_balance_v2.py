"""Pairwise Class Balance on Equalization loss v2.

Symbols: see :mod:`balms_det.losses.pairwise_class_balance` and
:mod:`balms_det.losses.equalization_v2`, and
    t   target of an output: 1 for the label, on foreground mixed with the soft label
"""

from typing import Any

import torch
from torch import Tensor

from balms_det.losses.base import BOX_LOSS_REGISTRY
from balms_det.losses.equalization_v2 import EQLv2Loss
from balms_det.losses.functional import row_blocks, rows_of_objects
from balms_det.losses.pairwise_class_balance import PairwiseBalance
from balms_det.losses.soft_labels import SoftTargets, binary_slopes, soft_binary_cross_entropy


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
        targets = self._targets(gt_classes, logits.dtype)
        return soft_binary_cross_entropy(logits, targets, positive, negative)

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        objects, labels = rows_of_objects(self.num_classes, gt_classes, logits)
        self.move_confusion(objects[:, : self.num_classes].sigmoid(), labels)
        targets = self._targets(gt_classes, logits.dtype)
        positive, negative = (weight.to(logits.dtype) for weight in self.class_weights())
        pulled = self.pos_grad.new_zeros(self.num_logits)
        pushed = torch.zeros_like(pulled)
        for rows in row_blocks(logits):
            target = targets.of_rows(rows)
            size = binary_slopes(logits[rows], target, positive, negative).abs_()
            up = target.mul_(size)
            pulled += up.sum(dim=0)
            pushed += size.sub_(up).sum(dim=0)
        self.add_gradients(pulled, pushed)

    def _targets(self, gt_classes: Tensor, dtype: torch.dtype) -> SoftTargets:
        soft = self.soft_labels(dtype, self.num_logits)
        return SoftTargets(soft, gt_classes, self.shares(gt_classes, dtype))
