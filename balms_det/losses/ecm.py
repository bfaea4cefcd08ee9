"""Effective Class-Margin loss (Cho and Kraehenbuehl, "Long-tail Detection with Effective
Class-Margins", ECCV 2022): margins and weights that bound every class's detection error.

Symbols: see :mod:`balms_det.losses.core.families`, and
    n_c      training images of class c; background has ``fg_bg_ratio * sum(n)``
    ratio_c  ``n_not_c / n_c``: examples of all other outputs for one of c, background included
    margin   what is added to the (doubled) logit of an output in training, and only there
"""

from typing import Any

import torch
from torch import Tensor

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.binary_terms import binary_cross_entropy_per_roi
from balms_det.losses.core.families import SigmoidObjectnessFamily
from balms_det.losses.core.priors import MIN_COUNT, class_counts


@BOX_LOSS_REGISTRY.register()
class ECMLoss(SigmoidObjectnessFamily):
    """Binary cross-entropy with effective class margins (paper, section 4.3).

    The surrogate score ``e^(z+w+) / (e^(z+w+) + e^(-z+w-))`` of the paper is
    ``sigmoid(2 z - log(ratio) / 4)``; the term of output c is multiplied by
    ``ratio_c * log((1 + ratio_c) / ratio_c)``, which lies in (0, 1) and is 1 for the rarest. Scores
    are sigmoids of z, not of 2 z, as in the authors' code. The authors compute the
    weights in float32, which for a rare class of LVIS is off by some 0.1 %; here they are exact.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        counts: "image" (the authors') or "instance": which counts n are.
        fg_bg_ratio: background examples for one of the foreground; 6.3313 is the authors'
            figure for the RoIs of LVIS v1.
        prior_prob: see :class:`SigmoidObjectnessFamily`.

    Raises:
        ValueError: an unknown ``counts``, or a ratio that is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        counts: str = "image",
        fg_bg_ratio: float = 6.3313,
        prior_prob: float = 0.001,
    ):
        super().__init__(num_classes, class_stats, prior_prob=prior_prob)
        if fg_bg_ratio <= 0:
            raise ValueError(f"fg_bg_ratio must be positive, got {fg_bg_ratio}")
        count = class_counts(class_stats, counts)[0].clamp(min=MIN_COUNT)
        count = torch.cat([count, fg_bg_ratio * count.sum(dim=0, keepdim=True)])
        ratio = (count.sum() - count) / count
        self.register_buffer("margins", -torch.log(ratio) / 4, persistent=False)
        self.register_buffer("class_weights", ratio * torch.log1p(1 / ratio), persistent=False)

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        surrogate = torch.add(self.margins.to(logits.dtype), logits, alpha=2)
        weights = self.class_weights.to(logits.dtype)
        return binary_cross_entropy_per_roi(surrogate, gt_classes, weights, weights[gt_classes])
