"""Equalization loss (Tan et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR
2020): rare classes are not pushed down by the objects of other classes.

Symbols: see :mod:`balms_det.losses.base`; here L = K, and
    f_c      share of the training images that hold class c
    lambda   frequency below which a class counts as rare
"""

from typing import Any

import torch
from torch import Tensor

from balms_det.losses.base import BOX_LOSS_REGISTRY
from balms_det.losses.class_priors import image_frequency
from balms_det.losses.sigmoid import SigmoidFamily, binary_cross_entropy_per_roi


def equalization_weights(gt_classes: Tensor, rare: Tensor) -> Tensor:
    """0 for a rare class other than the label on a foreground RoI, else 1: (R, K).

    Args:
        gt_classes: (R,) in [0, K].
        rare: (K,), 1 for rare classes and 0 for the others; its dtype is the result's.
    """
    num_classes = len(rare)
    foreground = (gt_classes < num_classes).to(rare.dtype)
    weights = 1 - torch.outer(foreground, rare)
    # Background rows write 1 to the last column, where they have it already.
    return weights.scatter_(1, gt_classes.clamp(max=num_classes - 1).unsqueeze(1), 1.0)


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
        weights = equalization_weights(gt_classes, self.rare.to(logits.dtype))
        return binary_cross_entropy_per_roi(logits, gt_classes, weights)
