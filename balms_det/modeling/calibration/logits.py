"""Calibrations by what the classifier itself gives: its logits, its weights, its temperature.

Symbols: see :mod:`balms_det.modeling.calibration.base`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.modeling.calibration.base import (
    CALIBRATION_REGISTRY,
    Calibration,
    Head,
    check_linear,
)
from balms_det.modeling.calibration.statistics import read_tables


class LogitStatistics(nn.BatchNorm1d):
    """The statistics pass of LogN: mean and variance of each logit, background RoIs included.

    Feed it batches of logits, (R, L), in training mode; it returns them normalised by the batch.
    ``momentum=None`` pools all batches exactly. With a momentum it is the authors' running average
    (theirs is 1e-4), which starts at mean 0 and variance 1 and so has to run for long.
    """

    def __init__(self, num_logits: int, *, momentum: float | None = None, bn_eps: float = 1e-5):
        super().__init__(num_logits, eps=bn_eps, momentum=momentum, affine=False)
        self.seen = 0

    def forward(self, logits: Tensor) -> Tensor:
        if self.momentum is not None:
            return super().forward(logits)
        self._pool(logits.detach().double())
        return F.batch_norm(logits, None, None, training=True, eps=self.eps)

    def _pool(self, logits: Tensor) -> None:
        """Mean and unbiased variance of all rows so far (Chan et al. 1979, equation 2.1)."""
        rows, seen = len(logits), self.seen
        self.seen = total = seen + rows
        mean, var = self.running_mean.double(), self.running_var.double()
        delta = logits.mean(0) - mean
        squares = (logits - logits.mean(0)).square().sum(0)
        if seen:
            squares = squares + var * (seen - 1) + delta.square() * (seen * rows / total)
        self.running_mean = mean + delta * (rows / total) if seen else logits.mean(0)
        self.running_var = squares / max(total - 1, 1)

    def tables(self) -> dict[str, list[float]]:
        """What :class:`LogitNormalization` reads, (L,) each."""
        return {"logit_mean": self.running_mean.tolist(), "logit_var": self.running_var.tolist()}


@CALIBRATION_REGISTRY.register()
class LogitNormalization(Calibration):
    """LogN: ``(z_c - mean_c + min_k mean_k) / std_c``, background unchanged (Zhao et al., "Logit
    Normalization for Long-tail Object Detection", IJCV 2024).

    Sigmoid form: the same on each logit (the softmax of ``(z_c, 0)``, whose 0 is the background).

    Args:
        head, class_stats: see :class:`Calibration`; counts are not read.
        statistics: json file, or mapping, with ``logit_mean`` and ``logit_var``.
        strength: at s the mean counts s times and the standard deviation to the power s; 1 is LogN.
        var_floor: lower limit of the variance.

    Raises:
        ValueError: statistics of another number of classes.
        FileNotFoundError: no statistics.
    """

    needs_statistics = ("logit_mean", "logit_var")

    def __init__(
        self,
        head: Head,
        class_stats: Any,
        *,
        statistics: str | Mapping[str, Any] = "",
        strength: float = 1.0,
        var_floor: float = 1e-11,
    ):
        super().__init__(head, class_stats, strength)
        mean, var = read_tables("LogitNormalization", statistics, self.needs_statistics, head)
        scale = var.clamp(min=var_floor) ** (-strength / 2)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", strength * (mean.min() - mean), persistent=False)

    def scale_and_offset(self, classifier: nn.Module | None) -> tuple[Tensor, Tensor]:
        return self.scale, self.shift * self.scale


@CALIBRATION_REGISTRY.register()
class TauNormalization(Calibration):
    """Weights ``w_c / ||w_c||^tau`` (Kang et al., "Decoupling Representation and Classifier for
    Long-Tailed Recognition", ICLR 2020, section 4.2); biases and background unchanged, as on LVIS.

    Computed on the logits, ``(z_c - b_c) / ||w_c||^tau + b_c``. Sigmoid form: the same.

    Args:
        head, class_stats: see :class:`Calibration`; counts are not read.
        tau: strength; 1 makes all weights unit vectors.
        keep_bias: False leaves out the biases of the classes, as in classification.
    """

    strength_argument = "tau"

    def __init__(self, head: Head, class_stats: Any, *, tau: float = 1.0, keep_bias: bool = True):
        super().__init__(head, class_stats, tau)
        self.tau, self.keep_bias = tau, keep_bias
        self.is_identity = tau == 0 and keep_bias

    def scale_and_offset(self, classifier: nn.Module | None) -> tuple[Tensor, Tensor]:
        check_linear("TauNormalization", classifier)
        classes = self.head.num_classes
        scale = tau_scale(classifier.weight[:classes].double(), self.tau)
        if classifier.bias is None:
            return scale, torch.zeros_like(scale)
        bias = classifier.bias[:classes].double()
        return scale, (bias if self.keep_bias else 0.0) - bias * scale


def tau_scale(weight: Tensor, tau: float) -> Tensor:
    """``||w_c||^-tau`` of every row of (C, D) weights, (C,); 1 for a row of zeros."""
    norm = weight.norm(dim=1)
    return torch.where(norm > 0, norm, 1.0) ** -tau


@CALIBRATION_REGISTRY.register()
class TemperatureScaling(Calibration):
    """``z / T``, background too (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
    section 4.2). The strength is ``log T``: 0 changes nothing, below 0 scores grow sharper.

    Sigmoid form: the same (the paper's section 4.1). It keeps the order of a class's detections
    there and so can change no AP except through the limit of detections an image.

    Args:
        head, class_stats: see :class:`Calibration`; counts are not read.
        temperature: T, positive.

    Raises:
        ValueError: a temperature that is not positive.
    """

    strength_argument = "temperature"
    strengths = (-0.7, -0.35, 0.35, 0.7)

    def __init__(self, head: Head, class_stats: Any, *, temperature: float = 1.0):
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        super().__init__(head, class_stats, math.log(temperature))
        scale = torch.full((head.num_classes,), 1 / temperature, dtype=torch.float64)
        self.register_buffer("scale", scale, persistent=False)

    @classmethod
    def arguments_for(cls, strength: float) -> dict[str, Any]:
        return {cls.strength_argument: math.exp(strength)}

    def scale_and_offset(self, classifier: nn.Module | None) -> tuple[Tensor, Tensor]:
        return self.scale, torch.zeros_like(self.scale)

    def affine(self, classifier: nn.Module | None, num_logits: int) -> tuple[Tensor, Tensor]:
        scale = self.scale[:1].expand(num_logits)
        return scale, torch.zeros_like(scale)
