"""FRACAL (Alexandridis et al., "Fractal Calibration for long-tailed object detection", CVPR 2025).

Symbols: see :mod:`balms_det.modeling.calibration.base`, and
    f_c     share of class c among images (or, for "..._obj", among instances)
    w_c     how much scarcer class c is than under equal shares 1/K, on a scale named by ``variant``
    D_c     fractal dimension of the places where class c occurs (:mod:`.fractal`)
    lambda  exponent of D_c

A class that was never seen counts as half an example.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.balanced_softmax import MIN_COUNT, class_counts
from balms_det.modeling.calibration.base import CALIBRATION_REGISTRY, Calibration, Head, ToScores
from balms_det.modeling.calibration.statistics import read_tables

# Scales of a share in (0, 1): w_c is the scale of 1/K minus the scale of f_c.
_SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "raw": torch.log,
    "base2": torch.log2,
    "base10": torch.log10,
    "prob": torch.logit,
    "normit": torch.special.ndtri,
    "gombit": lambda share: torch.log(-torch.log1p(-share)),
}
VARIANTS = ("none", "smooth", *_SCALES)


@CALIBRATION_REGISTRY.register()
class FRACAL(Calibration):
    """``softmax(z + w)`` divided by ``D^lambda`` and renormalised; background has w = 0, D = 1.

    Sigmoid form, the authors': ``sigmoid(z_c) * sigmoid(z_c + w_c - log10(D_c^lambda / sum_k
    D_k^lambda) + log10(1/K))``.

    Args:
        head, class_stats: see :class:`Calibration`.
        statistics: json file, or mapping, with ``fractal_dimension`` (see ``statistics.py``).
        strength: the authors' factor of every score to this power: 1 is FRACAL.
        variant: scale of w: "base10" (the paper), "raw", "base2", "smooth", "prob", "normit",
            "gombit", each on image frequencies or, with "_obj" appended, on instance shares; or
            "none" for w = 0.
        fractal_lambda: lambda; the authors' 2.

    Raises:
        ValueError: an unknown variant; statistics of another number of classes, or a dimension that
            is not positive.
        FileNotFoundError: no statistics.
    """

    needs_class_stats = True
    needs_statistics = ("fractal_dimension",)

    def __init__(
        self,
        head: Head,
        class_stats: Any,
        *,
        statistics: str | Mapping[str, Any] = "",
        strength: float = 1.0,
        variant: str = "base10",
        fractal_lambda: float = 2.0,
    ):
        super().__init__(head, class_stats, strength)
        (dimension,) = read_tables("FRACAL", statistics, self.needs_statistics, head)
        if (dimension <= 0).any():
            raise ValueError("FRACAL: fractal dimensions must be positive")
        self.strength = strength
        frequency = frequency_weights(class_stats, variant)
        self.register_buffer("frequency", frequency, persistent=False)
        log_space = fractal_lambda * dimension.log()
        self.register_buffer("log_space", log_space, persistent=False)

    def scale_and_offset(self, classifier: nn.Module | None) -> tuple[Tensor, Tensor]:
        if self.head.family == "sigmoid":
            raise ValueError("FRACAL on a sigmoid head is no affine map of the logits")
        offset = self.strength * (self.frequency - self.log_space)
        return torch.ones_like(offset), offset

    def calibrate(
        self, logits: Tensor, to_scores: ToScores, classifier: nn.Module | None
    ) -> Tensor:
        if self.head.family == "softmax":
            return super().calibrate(logits, to_scores, classifier)
        classes = self.head.num_classes
        share = self.log_space - self.log_space.logsumexp(0)
        offset = self.frequency - share / math.log(10) - math.log10(classes)
        factor = torch.sigmoid(logits[:, :classes] + offset.to(logits.dtype))
        return to_scores(logits) * F.pad(factor**self.strength, (0, 1), value=1.0)


def frequency_weights(class_stats: Any, variant: str = "base10") -> Tensor:
    """``w``, (K,) float64; see :class:`FRACAL`.

    Raises:
        ValueError: an unknown variant.
    """
    scale = variant.removesuffix("_obj")
    if scale not in VARIANTS:
        raise ValueError(
            f"FRACAL's variant must be one of {', '.join(VARIANTS)}, or one of them with '_obj' "
            f"appended, got {variant!r}"
        )
    count, total = class_counts(class_stats, "instance" if variant.endswith("_obj") else "image")
    total, classes = max(total, 1.0), len(count)
    if scale == "none":
        return torch.zeros_like(count)
    if scale == "smooth":
        # The one scale that depends on counts: the authors compare with 300 images, or 1000
        # instances, of every class. Both terms carry a + 1 of theirs that does not cancel.
        even = 1000.0 if variant.endswith("_obj") else 300.0
        scarcity = torch.log((total + 1) / (count + 1)) + 1
        return scarcity + math.log((even + 1) / (even * classes + 1)) + 1
    highest = 1 - MIN_COUNT / total
    share = (count / total).clamp(MIN_COUNT / total, highest)
    even_share = torch.tensor(min(1 / classes, highest), dtype=torch.float64)
    return _SCALES[scale](even_share) - _SCALES[scale](share)
