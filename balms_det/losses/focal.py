"""Focal loss (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017).

Symbols: see :mod:`balms_det.losses.core.base`; here L = K, and
    p_t     score of the right answer of an output: ``sigmoid(z)`` for the label, else one minus it
    gamma   how fast the loss of what is already right falls off
    alpha   weight of labels; negatives weigh ``1 - alpha``
"""

from typing import Any

import torch
from torch import Tensor

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.binary_terms import binary_terms_per_roi, symmetric_term
from balms_det.losses.core.families import SigmoidFamily
from balms_det.losses.core.functional import softplus_values


@BOX_LOSS_REGISTRY.register()
class FocalLoss(SigmoidFamily):
    """``-alpha_t * (1 - p_t)^gamma * log(p_t)``, summed over classes (equation 5).

    The sum is divided by R, as for the other losses of this package; the paper, whose detector has
    100,000 anchors an image, divides by the number of objects.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; no counts are needed.
        gamma: 0 leaves weighted cross-entropy.
        alpha: weight of labels in [0, 1]; None weighs labels and negatives alike, by 1.
        prior_prob: see :class:`balms_det.losses.core.families.BinaryFamily`; 0.01 in the paper.

    Raises:
        ValueError: ``alpha`` outside [0, 1], ``gamma`` negative or ``prior_prob`` outside (0, 1).
    """

    needs_class_stats = False

    def __init__(
        self,
        num_classes: int,
        class_stats: Any = None,
        *,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        prior_prob: float = 0.01,
    ):
        super().__init__(num_classes, class_stats, prior_prob=prior_prob)
        if gamma < 0 or not (alpha is None or 0 <= alpha <= 1):
            raise ValueError(
                f"gamma may not be negative and alpha lies in [0, 1], got {gamma} and {alpha}"
            )
        self.gamma = gamma
        self.alpha = alpha

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        factors = label_factors = None
        if self.alpha is not None:
            factors = logits.new_full((self.num_classes,), 1 - self.alpha)
            label_factors = logits.new_full((len(logits),), self.alpha)
        term = symmetric_term(self._negative)
        return binary_terms_per_roi(logits, gt_classes, term, factors, label_factors)

    def _negative(self, logits: Tensor, slope: Tensor) -> Tensor:
        """``p^gamma * -log(1 - p)`` of the score p."""
        score, loss = logits.sigmoid(), softplus_values(logits)
        # In closed form, which is finite where a power below 1 of an underflowed score is not.
        torch.neg(score, out=slope).add_(1).mul_(loss).mul_(self.gamma).add_(score)
        power = score.pow_(self.gamma)
        slope.mul_(power)
        return loss.mul_(power)
