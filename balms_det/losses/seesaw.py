"""Seesaw loss (Wang et al., "Seesaw Loss for Long-Tailed Instance Segmentation", CVPR 2021).

Symbols: see :mod:`balms_det.losses.core.families` (L = K + 2, softmax), and
    N_c    RoIs of class c seen in training so far, the current batch included; at least 1
    p_c    softmax of a row over the K classes
    M_yc   mitigation, ``min(1, (N_c / N_y) ** p)``: rare classes are pushed down less
    C_yc   compensation, ``max(1, (p_c / max(p_y, eps)) ** q)``: false positives are pushed down
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.cosine import CosineClassifier
from balms_det.losses.core.families import SoftmaxObjectnessFamily, is_foreground
from balms_det.losses.core.functional import per_object, shifted_cross_entropy
from balms_det.losses.core.state import class_sums


def seesaw_offsets(
    logits: Tensor, gt_classes: Tensor, count: Tensor, *, p: float, q: float, eps: float
) -> Tensor:
    """``log(M_yc * C_yc)``, (R, K), without gradient: what is added to the logits of a row.

    Args:
        logits: (R, K), classes alone.
        gt_classes: (R,) in [0, K]; background rows get values without meaning.
        count: (K,) or longer, RoIs of each class so far.
        p, q, eps: as in the module's docstring.
    """
    num_classes = logits.shape[1]
    label = gt_classes.clamp(max=num_classes - 1)
    with torch.no_grad():
        log_count = count[:num_classes].clamp(min=1).log().to(logits.dtype)
        log_prob = F.log_softmax(logits, dim=1)
        own = log_prob.gather(1, label.unsqueeze(1)).clamp_(min=math.log(eps))
        compensation = log_prob.sub_(own).clamp_(min=0).mul_(q)
        mitigation = (log_count - log_count[label].unsqueeze(1)).clamp_(max=0)
        return compensation.add_(mitigation, alpha=p)


@BOX_LOSS_REGISTRY.register()
class SeesawLoss(SoftmaxObjectnessFamily):
    """Seesaw loss over classes on foreground RoIs, plus two-way objectness on all (section 3).

    Counts move before the loss. As in the authors' code both parts are divided by all R, counts
    are clamped at 1 and the label's probability at ``eps``; unlike there, counts are summed over
    ranks. Factors M and C carry no gradient. State: ``cum_samples``, (K + 1,).

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; no counts are needed.
        p: exponent of the mitigation factor; 0 switches it off.
        q: exponent of the compensation factor; 0 switches it off.
        eps: lowest probability of the label in the compensation factor.
        cosine: whether the classifier is a cosine classifier (section 3.4), as in the results of
            the paper's tables 1 and 8.
        temperature: factor of the cosine.

    Raises:
        ValueError: ``eps`` is not positive, or ``temperature`` is not.
    """

    needs_class_stats = False
    has_detached_factors = True

    def __init__(
        self,
        num_classes: int,
        class_stats: Any = None,
        *,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 0.01,
        cosine: bool = True,
        temperature: float = 20.0,
    ):
        super().__init__(num_classes, class_stats)
        if eps <= 0 or temperature <= 0:
            raise ValueError(f"eps and temperature must be positive, got {eps} and {temperature}")
        self.p, self.q, self.eps = p, q, eps
        self.cosine, self.temperature = cosine, temperature
        self.register_buffer("cum_samples", torch.zeros(num_classes + 1, dtype=torch.float64))

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        self.advance(logits, gt_classes)
        # split, not a slice: its backward is one copy.
        classes, objectness = logits.split([self.num_classes, 2], dim=1)
        is_background = (~is_foreground(gt_classes, self.num_classes)).long()
        class_loss = per_object(self.class_loss, self.num_classes, classes, gt_classes)
        return class_loss + F.cross_entropy(objectness, is_background, reduction="none")

    def class_loss(self, classes: Tensor, labels: Tensor) -> Tensor:
        """The part of the K class logits of foreground RoIs, (N,)."""
        return shifted_cross_entropy(classes, self.class_offsets, labels)

    def class_offsets(self, classes: Tensor, labels: Tensor) -> Tensor:
        """:func:`seesaw_offsets` of the state as it is."""
        return seesaw_offsets(classes, labels, self.cum_samples, p=self.p, q=self.q, eps=self.eps)

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        self.cum_samples += class_sums(gt_classes, self.num_classes + 1)[0]

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        if not self.cosine:
            return linear
        return CosineClassifier.from_linear(linear, scale=self.temperature, bias=True)
