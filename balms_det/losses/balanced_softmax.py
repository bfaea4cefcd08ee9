"""Balanced Softmax (Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition",
NeurIPS 2020), in its softmax and in its sigmoid form.

Symbols: see :mod:`balms_det.losses.core.base`, and
    n_c     training count of class c: its images or its instances
    f_c     share of the training set that holds class c
    tau     strength of the adjustment; 1 is the paper, 0 the plain loss
    offset  what is added to the logit of class c in training, and only there

A class without any training example counts as half an example (and one that is in every image as
missing from half an image): its offset is the lowest of all but finite, and as it is never a label,
the offset only says how strongly it is pushed down as a negative.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.binary_terms import binary_cross_entropy_per_roi
from balms_det.losses.core.families import SigmoidFamily, SoftmaxFamily
from balms_det.losses.core.functional import shifted_cross_entropy
from balms_det.losses.core.priors import MIN_COUNT, class_counts


def balanced_softmax_offsets(count: Tensor, tau: float = 1.0) -> Tensor:
    """``tau * log(n_c / mean(n))``, (K,) float64: 0 for every class when all counts are equal.

    The mean only shifts all offsets alike, so without a background channel this is the paper's
    ``log n_c`` (equation 4); with one it keeps the rate of background as it is.

    Args:
        count: (K,) training counts; zeros are legal (see the module's docstring).
        tau: strength of the adjustment.
    """
    count = count.to(torch.float64).clamp(min=MIN_COUNT)
    return tau * torch.log(count / count.mean())


def balanced_sigmoid_offsets(count: Tensor, total: float, tau: float = 1.0) -> Tensor:
    """``tau * log(f_c / (1 - f_c))`` with ``f_c = n_c / total``, (K,) float64.

    Args:
        count: (K,) training counts in [0, total]; both ends are legal (module docstring).
        total: images or instances of the training set.
        tau: strength of the adjustment.
    """
    total = max(total, 1.0)
    count = count.to(torch.float64).clamp(min=MIN_COUNT, max=total - MIN_COUNT)
    return tau * torch.log(count / (total - count))


@BOX_LOSS_REGISTRY.register()
class BalancedSoftmaxLoss(SoftmaxFamily):
    """Cross-entropy of logits shifted by the log class counts (equation 4); plain scores.

    The paper has no background. Here training and test share the rate of background and only the
    mix of classes inside the foreground is re-balanced, so class c is shifted by
    ``tau * log(n_c / mean(n))`` and background by 0. With equal counts it is cross-entropy.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        counts: "image" or "instance": which counts n are.
        tau: strength of the adjustment.
        background: "keep" shifts background by 0; "class" balances it too, as one more class with
            ``background_ratio`` times as many examples as all others together. Scores then no
            longer know that most RoIs are background, so there are many more detections.
        background_ratio: background RoIs for one of the foreground; Detectron2 samples 3.

    Raises:
        ValueError: an unknown ``counts`` or ``background``, or a ratio that is not positive.
    """

    equal_counts_are_plain = True

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        counts: str = "image",
        tau: float = 1.0,
        background: str = "keep",
        background_ratio: float = 3.0,
    ):
        super().__init__(num_classes, class_stats)
        if background not in ("keep", "class"):
            raise ValueError(f"background must be 'keep' or 'class', got {background!r}")
        if background_ratio <= 0:
            raise ValueError(f"background_ratio must be positive, got {background_ratio}")
        offsets = balanced_softmax_offsets(class_counts(class_stats, counts)[0], tau)
        shift = 0.0 if background == "keep" else tau * math.log(background_ratio * num_classes)
        self.register_buffer("offsets", F.pad(offsets, (0, 1), value=shift), persistent=False)

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return shifted_cross_entropy(logits, self.offsets.to(logits.dtype), gt_classes)


@BOX_LOSS_REGISTRY.register()
class BalancedSigmoidLoss(SigmoidFamily):
    """The sigmoid form of Balanced Softmax, which the authors train on LVIS (appendix A.2).

    On foreground RoIs every class logit is shifted by ``tau * log(f_c / (1 - f_c))``; background
    RoIs and scores use the plain logits. The constant of the paper's equation 36 is left out, as
    in the authors' code.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        counts: "image" (the authors' code: f is the image frequency) or "instance" (the paper).
        tau: strength of the adjustment.
        prior_prob: see :class:`SigmoidFamily`.

    Raises:
        ValueError: an unknown ``counts``, or ``prior_prob`` outside (0, 1).
    """

    equal_counts_are_plain = True

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        counts: str = "image",
        tau: float = 1.0,
        prior_prob: float = 0.001,
    ):
        super().__init__(num_classes, class_stats, prior_prob=prior_prob)
        count, total = class_counts(class_stats, counts)
        offsets = balanced_sigmoid_offsets(count, total, tau)
        self.register_buffer("offsets", offsets, persistent=False)

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        is_foreground = (gt_classes < self.num_classes).to(logits.dtype).unsqueeze(1)
        offsets = self.offsets.to(logits.dtype)
        return binary_cross_entropy_per_roi(
            logits, gt_classes, shifts=lambda block, rows: is_foreground[rows] * offsets
        )
