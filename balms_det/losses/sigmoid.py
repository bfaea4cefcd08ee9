"""Sigmoid cross-entropy: K independent binary classifiers and no background channel.

Symbols: see :mod:`balms_det.losses.base`; here L = K. A background RoI is a negative of every
class. The loss of a RoI is the sum over the K classes.
"""

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.base import BOX_LOSS_REGISTRY, BoxLoss, full_precision
from balms_det.losses.binary_terms import binary_cross_entropy_per_roi


class BinaryFamily(BoxLoss):
    """Losses whose every output is a binary classifier of its own.

    The plain loss is binary cross-entropy, summed over outputs.

    Args:
        num_classes, class_stats: see :class:`BoxLoss`.
        prior_prob: score of every output at the start of training (pi of RetinaNet, Lin et al.,
            ICCV 2017, section 4.1); the classifier's bias starts at ``-log((1 - pi) / pi)``.

    Raises:
        ValueError: ``prior_prob`` outside (0, 1).
    """

    def __init__(self, num_classes: int, class_stats: Any = None, *, prior_prob: float = 0.001):
        super().__init__(num_classes, class_stats)
        if not 0 < prior_prob < 1:
            raise ValueError(f"prior_prob must lie between 0 and 1, got {prior_prob}")
        self.prior_prob = prior_prob

    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return binary_cross_entropy_per_roi(logits, gt_classes)

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        nn.init.constant_(linear.bias, -math.log((1 - self.prior_prob) / self.prior_prob))
        return linear


class SigmoidFamily(BinaryFamily):
    """Losses on K logits whose scores are their sigmoids; see :class:`BinaryFamily`."""

    @property
    def num_logits(self) -> int:
        return self.num_classes

    def scores(self, logits: Tensor) -> Tensor:
        return F.pad(full_precision(logits).sigmoid(), (0, 1))

    def accuracy_scores(self, logits: Tensor) -> Tensor:
        # A zero logit for background: it wins where every class scores below one half.
        return F.pad(logits, (0, 1))


@BOX_LOSS_REGISTRY.register()
class SigmoidLoss(SigmoidFamily):
    """Binary cross-entropy summed over classes, the baseline of the BALMS authors on LVIS."""

    needs_class_stats = False

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return self.plain_per_roi(logits, gt_classes)
