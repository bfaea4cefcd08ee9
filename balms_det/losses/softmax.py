"""Softmax cross-entropy over K classes and background.

Symbols: see :mod:`balms_det.losses.base`; here L = K + 1, the last logit is background.
"""

from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.base import BOX_LOSS_REGISTRY, BoxLoss, full_precision


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
