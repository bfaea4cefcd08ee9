"""Equalization loss (Tan et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR
2020): rare classes are not pushed down by the objects of other classes.

Symbols: see :mod:`balms_det.losses.core.base`; here L = K, and
    f_c      share of the training images that hold class c
    lambda   frequency below which a class counts as rare
"""

from typing import Any

import torch
from torch import Tensor

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.binary_terms import (
    CROSS_ENTROPY,
    OfRows,
    OutputTerm,
    binary_terms_per_roi,
)
from balms_det.losses.core.families import SigmoidFamily
from balms_det.losses.core.priors import image_frequency


def equalization_factors(gt_classes: Tensor, rare: Tensor) -> OfRows:
    """0 for a rare class on a foreground RoI, else 1, of some rows; labels' are not meant.

    Args:
        gt_classes: (R,) in [0, K].
        rare: (K,), 1 for rare classes and 0 for the others; its dtype is the result's.
    """
    kinds = torch.stack([1 - rare, torch.ones_like(rare)])
    is_background = (gt_classes >= len(rare)).long()
    return lambda logits, rows: kinds.index_select(0, is_background[rows])


@BOX_LOSS_REGISTRY.register()
class EQLLoss(SigmoidFamily):
    """Binary cross-entropy without the negatives of rare classes on foreground RoIs (equation 7).

    The paper (section 4.2) keeps such a negative where LVIS says that the class is, or is not, in
    the image; the authors' released code does not, nor does this.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        lambda_: image frequency below which a class is rare. 1.77e-3 is the authors' for LVIS
            v0.5 (1.76e-3 in the paper); for v1 they take 1.1e-3.
        prior_prob: see :class:`SigmoidFamily`.

    Raises:
        ValueError: ``prior_prob`` outside (0, 1).
    """

    equal_counts_are_plain = True

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        lambda_: float = 1.77e-3,
        prior_prob: float = 0.001,
    ):
        super().__init__(num_classes, class_stats, prior_prob=prior_prob)
        rare = (image_frequency(class_stats) < lambda_).double()
        self.register_buffer("rare", rare, persistent=False)

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return binary_terms_per_roi(
            logits, gt_classes, self.term(), self.factors(logits, gt_classes)
        )

    def term(self) -> OutputTerm:
        """The loss of an output."""
        return CROSS_ENTROPY

    def factors(self, logits: Tensor, gt_classes: Tensor) -> OfRows:
        """What the terms of all outputs but the label's are multiplied by."""
        return equalization_factors(gt_classes, self.rare.to(logits.dtype))
