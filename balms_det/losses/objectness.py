"""Losses that ask "object or background?" apart from "which class?".

Symbols: see :mod:`balms_det.losses.base`, and
    p_c    score of class c given an object
    p_bg   score of background; the score of class c is ``p_c * (1 - p_bg)``

Two layouts of the logits exist: K classes and one sigmoid background output (EQLv2), and K classes
with two softmax outputs, object and background (Seesaw).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.base import BoxLoss, full_precision
from balms_det.losses.sigmoid import BinaryFamily


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
