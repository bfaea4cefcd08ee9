"""Softmax cross-entropy over K classes and background.

Symbols: see :mod:`balms_det.losses.core.base`; here L = K + 1, the last logit is background.

Symbols: see :mod:`balms_det.losses.core.base`; here L = K. A background RoI is a negative of every
class. The loss of a RoI is the sum over the K classes.

Symbols: see :mod:`balms_det.losses.core.base`, and
    p_c    score of class c given an object
    p_bg   score of background; the score of class c is ``p_c * (1 - p_bg)``

Two layouts of the logits exist: K classes and one sigmoid background output (EQLv2), and K classes
with two softmax outputs, object and background (Seesaw).

"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY, BoxLoss, full_precision
from balms_det.losses.core.binary_terms import binary_cross_entropy_per_roi


class SoftmaxFamily(BoxLoss):
    """Losses on K + 1 logits whose scores are their softmax."""

    @property
    def num_logits(self) -> int:
        return self.num_classes + 1

    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return F.cross_entropy(logits, gt_classes, reduction="none")

    def scores(self, logits: Tensor) -> Tensor:
        return F.softmax(full_precision(logits), dim=-1)

    def accuracy_scores(self, logits: Tensor) -> Tensor:
        return logits


@BOX_LOSS_REGISTRY.register()
class SoftmaxLoss(SoftmaxFamily):
    """Cross-entropy, as in Fast R-CNN (Girshick, ICCV 2015): Detectron2's own loss."""

    needs_class_stats = False

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return self.plain_per_roi(logits, gt_classes)

    def mean_loss(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        # The kernel that Detectron2 calls: the same bits, not only the same value.
        return F.cross_entropy(logits, gt_classes, reduction="mean")


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


def is_foreground(gt_classes: Tensor, num_classes: int) -> Tensor:
    """Which RoIs hold an object, (R,) boolean."""
    return gt_classes < num_classes


def foreground_cross_entropy(logits: Tensor, gt_classes: Tensor) -> Tensor:
    """Cross-entropy over classes alone, (R,): zero on background RoIs, gradient included.

    Args:
        logits: (R, K), without background.
        gt_classes: (R,) in [0, K].
    """
    # ignore_index leaves background rows out without selecting rows, which would stall a GPU.
    return F.cross_entropy(logits, gt_classes, ignore_index=logits.shape[1], reduction="none")


def joint_scores(class_scores: Tensor, background: Tensor) -> Tensor:
    """``p_c * (1 - p_bg)`` and p_bg: (R, K + 1) from (R, K) and (R, 1)."""
    return torch.cat([class_scores * (1 - background), background], dim=1)


class BackgroundSigmoidFamily(BinaryFamily):
    """K + 1 binary classifiers, the last one background, whose scores are their sigmoids.

    The background output's target is 1 on background RoIs; see :class:`BinaryFamily`.
    """

    @property
    def num_logits(self) -> int:
        return self.num_classes + 1

    def scores(self, logits: Tensor) -> Tensor:
        return full_precision(logits).sigmoid()

    def accuracy_scores(self, logits: Tensor) -> Tensor:
        return logits


class SigmoidObjectnessFamily(BackgroundSigmoidFamily):
    """The same outputs, with ``p_c * (1 - p_bg)`` as the score of class c."""

    def scores(self, logits: Tensor) -> Tensor:
        score = full_precision(logits).sigmoid()
        return joint_scores(score[:, :-1], score[:, -1:])

    def accuracy_scores(self, logits: Tensor) -> Tensor:
        return self.scores(logits)


class SoftmaxObjectnessFamily(BoxLoss):
    """K class logits, then the logits of object (column K) and background (column K + 1).

    The plain loss is cross-entropy over the K classes on foreground RoIs plus two-way
    cross-entropy of the objectness on all RoIs.
    """

    @property
    def num_logits(self) -> int:
        return self.num_classes + 2

    def objectness_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Two-way cross-entropy of object against background, (R,)."""
        is_background = (~is_foreground(gt_classes, self.num_classes)).long()
        return F.cross_entropy(logits[:, self.num_classes :], is_background, reduction="none")

    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        classes = foreground_cross_entropy(logits[:, : self.num_classes], gt_classes)
        return classes + self.objectness_per_roi(logits, gt_classes)

    def scores(self, logits: Tensor) -> Tensor:
        logits = full_precision(logits)
        objectness = F.softmax(logits[:, self.num_classes :], dim=1)
        return joint_scores(F.softmax(logits[:, : self.num_classes], dim=1), objectness[:, 1:])
