"""Equalization loss v2 (Tan et al., "Equalization Loss v2: A New Gradient Balance Approach for
Long-tailed Object Detection", CVPR 2021).

Symbols: see :mod:`balms_det.losses.core.families` (L = K + 1, sigmoid), and
    g_c   gradient that has pulled class c up, divided by what has pushed it down, in all training
    r_c   weight of negatives of class c, ``sigmoid(gamma * (g_c - mu))``
    q_c   weight of its positives, ``1 + alpha * (1 - r_c)``
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY, full_precision
from balms_det.losses.core.binary_terms import binary_cross_entropy_per_roi
from balms_det.losses.core.families import SigmoidObjectnessFamily
from balms_det.losses.core.functional import row_blocks
from balms_det.losses.core.state import sum_over_ranks


@BOX_LOSS_REGISTRY.register()
class EQLv2Loss(SigmoidObjectnessFamily):
    """Binary cross-entropy whose weights even out the gradients of every class (equations 4 to 7).

    Weights are those of the state before the batch; after the loss the batch's weighted gradients
    (sizes of ``dl/dz``, summed over RoIs and ranks) are added to it. The background output has
    weight 1. A class starts at ``g = initial_pos_neg`` and is, from the first batch on, at 0 until
    it is seen: its negatives weigh next to nothing. State: ``pos_grad``, ``neg_grad`` and
    ``pos_neg``, (K,) each.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; no counts are needed.
        gamma, mu: slope and centre of the weight of negatives.
        alpha: how much the weight of positives grows as that of negatives falls.
        initial_pos_neg: g at the start; 100 makes the first weights 1.
        eps: added to the sum of negative gradients before division.
        test_with_obj: whether the score of a class is multiplied by that of an object, as in all
            of the authors' results.
        prior_prob: see :class:`balms_det.losses.core.families.BinaryFamily`.

    Raises:
        ValueError: ``prior_prob`` outside (0, 1).
    """

    needs_class_stats = False

    def __init__(
        self,
        num_classes: int,
        class_stats: Any = None,
        *,
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha: float = 4.0,
        initial_pos_neg: float = 100.0,
        eps: float = 1e-10,
        test_with_obj: bool = True,
        prior_prob: float = 0.001,
    ):
        super().__init__(num_classes, class_stats, prior_prob=prior_prob)
        self.gamma, self.mu, self.alpha, self.eps = gamma, mu, alpha, eps
        self.test_with_obj = test_with_obj
        self.register_buffer("pos_grad", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("neg_grad", torch.zeros(num_classes, dtype=torch.float64))
        start = torch.full((num_classes,), initial_pos_neg, dtype=torch.float64)
        self.register_buffer("pos_neg", start)

    def class_weights(self) -> tuple[Tensor, Tensor]:
        """q and r with background's 1 appended: weights of positives and negatives, (K + 1,)."""
        negative = torch.sigmoid(self.gamma * (self.pos_neg - self.mu))
        positive = 1 + self.alpha * (1 - negative)
        return F.pad(positive, (0, 1), value=1.0), F.pad(negative, (0, 1), value=1.0)

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        positive, negative = (weight.to(logits.dtype) for weight in self.class_weights())
        loss = binary_cross_entropy_per_roi(logits, gt_classes, negative, positive[gt_classes])
        self.advance(logits, gt_classes)
        return loss

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        label = gt_classes.unsqueeze(1)
        pulled = self.pos_grad.new_zeros(self.num_classes + 1)
        at_label = torch.sigmoid(-logits.gather(1, label)).squeeze(1)
        pulled.index_add_(0, gt_classes, at_label.double())
        pushed = torch.zeros_like(pulled)
        for rows in row_blocks(logits):
            pushed += logits[rows].sigmoid().scatter_(1, label[rows], 0.0).sum(dim=0)
        positive, negative = self.class_weights()
        self.add_gradients(positive * pulled, negative * pushed)

    def add_gradients(self, positive: Tensor, negative: Tensor) -> None:
        """Add a batch's weighted gradients, (K + 1,) each, background's of no account."""
        sums = sum_over_ranks(torch.stack([positive, negative]))[:, :-1]
        self.pos_grad += sums[0]
        self.neg_grad += sums[1]
        self.pos_neg.copy_(self.pos_grad / (self.neg_grad + self.eps))

    def scores(self, logits: Tensor) -> Tensor:
        return super().scores(logits) if self.test_with_obj else full_precision(logits).sigmoid()
