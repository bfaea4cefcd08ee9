"""Pairwise Class Balance on Equalization loss v2.

Symbols: see :mod:`balms_det.losses.pairwise_class_balance` and
:mod:`balms_det.losses.equalization_v2`, and
    t   target of an output: 1 for the label, on foreground mixed with the soft label
"""

from typing import Any

from torch import Tensor

from balms_det.losses.base import BOX_LOSS_REGISTRY
from balms_det.losses.equalization_v2 import EQLv2Loss
from balms_det.losses.functional import rows_of_objects, with_gradient
from balms_det.losses.pairwise_class_balance import PairwiseBalance
from balms_det.losses.soft_labels import SoftTargets, soft_binary_terms


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
        # What move_state has computed of the batch, for the loss of it.
        self._terms: tuple[Tensor, Tensor, Tensor] | None = None

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        self.advance(logits, gt_classes)
        terms, self._terms = self._terms, None
        if terms is None:  # no state moves
            terms = self._compute(logits.detach(), gt_classes)
        losses, slopes, _ = terms
        return with_gradient(logits, losses, slopes)

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        objects, labels = rows_of_objects(self.num_classes, gt_classes, logits)
        self.move_confusion(objects[:, : self.num_classes].sigmoid(), labels)
        terms = self._compute(logits, gt_classes)
        # The loss is of the weights before this batch too; an empty batch has no loss to follow.
        self._terms = terms if len(logits) else None
        self.add_gradients(*terms[2])

    def _compute(self, logits: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, their derivatives and the gradients of outputs: see ``soft_binary_terms``."""
        positive, negative = (weight.to(logits.dtype) for weight in self.class_weights())
        soft = self.soft_labels(logits.dtype, self.num_logits)
        targets = SoftTargets(soft, gt_classes, self.shares(gt_classes, logits.dtype))
        return soft_binary_terms(logits, targets, positive, negative)
