"""Softmax over cosines: classes and background as directions on a sphere.

Symbols: see :mod:`balms_det.losses.core.cosine`, and
    s_c   cosine of a RoI's feature and the weight of output c; the logit is ``scale * s_c``
"""

from typing import Any

from torch import Tensor, nn

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.cosine import CosineClassifier
from balms_det.losses.core.families import SoftmaxFamily


class CosineSoftmaxFamily(SoftmaxFamily):
    """Losses on ``scale * cosine`` whose scores are its softmax; background is one more output.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        scale: factor of the cosines.

    Raises:
        ValueError: ``scale`` is not positive.
    """

    def __init__(self, num_classes: int, class_stats: Any = None, *, scale: float):
        super().__init__(num_classes, class_stats)
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.scale = scale

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        return CosineClassifier.from_linear(linear, scale=self.scale)


@BOX_LOSS_REGISTRY.register()
class NormalizedSoftmaxLoss(CosineSoftmaxFamily):
    """Cross-entropy of scaled cosines (NormFace, Wang et al., ACM MM 2017, section 3.3).

    As the norm of a weight says nothing, a class can be added without training: its weight is the
    mean direction of a few exemplars (imprinting, Qi et al., "Low-Shot Learning with Imprinted
    Weights", CVPR 2018); see ``tools/imprint_class.py``.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; counts are not read.
        scale: factor of the cosines.
    """

    needs_class_stats = False

    def __init__(self, num_classes: int, class_stats: Any = None, *, scale: float = 20.0):
        super().__init__(num_classes, class_stats, scale=scale)

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return self.plain_per_roi(logits, gt_classes)
