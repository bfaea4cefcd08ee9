"""Calibrations by the training counts: what the frequent classes were favoured by is taken back.

Symbols: see :mod:`balms_det.modeling.calibration.base`; ``n_c`` training count of class c. A class
that was never seen counts as half an example.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.balanced_softmax import MIN_COUNT, balanced_softmax_offsets, class_counts
from balms_det.modeling.calibration.base import CALIBRATION_REGISTRY, Calibration, Head, ToScores


@CALIBRATION_REGISTRY.register()
class LogitAdjustment(Calibration):
    """``z_c - tau * log(n_c)`` (Menon et al., "Long-tail learning via logit adjustment", ICLR
    2021, equation 9), relative to the mean of n.

    The paper has no background. With a background, or a sigmoid, the unit of n matters: relative
    to the mean count, as in :class:`balms_det.losses.BalancedSoftmaxLoss`, which it undoes after
    training instead of in it, scarce classes gain on background as others lose.

    Sigmoid form: the same shift of each logit (the softmax of ``(z_c, 0)``).

    Args:
        head, class_stats: see :class:`Calibration`.
        tau: strength; 1 is the paper's.
        counts: "image" or "instance".
        relative_to: "mean" for ``log(n_c / mean(n))``, "one" for ``log(n_c)`` itself, which is
            :class:`NorCal` with gamma = tau.

    Raises:
        ValueError: an unknown ``counts`` or ``relative_to``.
    """

    strength_argument = "tau"
    needs_class_stats = True

    def __init__(
        self,
        head: Head,
        class_stats: Any,
        *,
        tau: float = 1.0,
        counts: str = "image",
        relative_to: str = "mean",
    ):
        super().__init__(head, class_stats, tau)
        if relative_to not in ("mean", "one"):
            raise ValueError(f"relative_to must be 'mean' or 'one', got {relative_to!r}")
        count, _ = class_counts(class_stats, counts)
        if relative_to == "mean":
            offset = -balanced_softmax_offsets(count, tau)
        else:
            offset = -tau * count.clamp(min=MIN_COUNT).log()
        self.register_buffer("offset", offset, persistent=False)

    def scale_and_offset(self, classifier: nn.Module | None) -> tuple[Tensor, Tensor]:
        return torch.ones_like(self.offset), self.offset


@CALIBRATION_REGISTRY.register()
class NorCal(Calibration):
    """``e^{z_c} / n_c^gamma``, background untouched, renormalised (Pan et al., "On Model
    Calibration for Long-Tailed Object Detection and Instance Segmentation", NeurIPS 2021).

    Sigmoid form: the same on the softmax of ``(z_c, 0)``, so ``sigmoid(z_c - gamma * log(n_c))``.

    Args:
        head, class_stats: see :class:`Calibration`.
        gamma: strength; the authors' 0.6. With ``method="cb"`` it must be below 1.
        method: "gamma" divides by ``n^gamma``, "cb" by the effective number of examples,
            ``(1 - gamma^n) / (1 - gamma)``.
        calibrate_on: "exps" (the paper), "probs" (the scores), or "logits": the factor
            ``1 / n^gamma`` is put on these.
        renorm: False leaves out the renormalisation (an ablation of the paper's: scores of "exps"
            are then no probabilities).
        counts: "image" (the authors') or "instance".

    Raises:
        ValueError: an unknown method, ``calibrate_on`` or ``counts``, or a gamma of 1 with "cb".
    """

    strength_argument = "gamma"
    strengths = (0.15, 0.3, 0.45, 0.6, 0.8, 1.0)
    needs_class_stats = True

    def __init__(
        self,
        head: Head,
        class_stats: Any,
        *,
        gamma: float = 0.6,
        method: str = "gamma",
        calibrate_on: str = "exps",
        renorm: bool = True,
        counts: str = "image",
    ):
        super().__init__(head, class_stats, gamma)
        if calibrate_on not in ("exps", "probs", "logits"):
            raise ValueError(
                f"calibrate_on must be 'exps', 'probs' or 'logits', got {calibrate_on!r}"
            )
        self.calibrate_on, self.renorm = calibrate_on, renorm
        if calibrate_on == "exps" and not renorm:
            self.is_identity = False  # e^z is no score, whatever gamma is
        log_factor = -_log_divisor(class_counts(class_stats, counts)[0], gamma, method)
        self.register_buffer("log_factor", log_factor, persistent=False)

    def scale_and_offset(self, classifier: nn.Module | None) -> tuple[Tensor, Tensor]:
        if self.calibrate_on == "logits":
            # Its softmax sums to 1 already: there is nothing to renormalise.
            return self.log_factor.exp(), torch.zeros_like(self.log_factor)
        if not self.renorm:
            raise ValueError("NorCal with renorm=False is no affine map of the logits")
        return torch.ones_like(self.log_factor), self.log_factor

    def calibrate(
        self, logits: Tensor, to_scores: ToScores, classifier: nn.Module | None
    ) -> Tensor:
        if self.renorm or self.calibrate_on == "logits":
            return super().calibrate(logits, to_scores, classifier)
        classes = self.head.num_classes
        log_factor = self.log_factor.to(logits.dtype)
        if self.calibrate_on == "probs":
            return to_scores(logits) * F.pad(log_factor, (0, 1)).exp()
        exps = (logits[:, :classes] + log_factor).exp()
        softmax = self.head.family == "softmax"
        background = logits[:, classes:].exp() if softmax else torch.zeros_like(exps[:, :1])
        return torch.cat([exps, background], dim=1)


def _log_divisor(count: Tensor, gamma: float, method: str) -> Tensor:
    """Log of what the scores of the classes are divided by, (K,)."""
    count = count.clamp(min=MIN_COUNT)
    if method == "gamma":
        return gamma * count.log()
    if method != "cb":
        raise ValueError(f"method must be 'gamma' or 'cb', got {method!r}")
    if not 0 <= gamma < 1:
        raise ValueError(f"NorCal with method='cb' needs 0 <= gamma < 1, got {gamma}")
    return ((1 - gamma**count) / (1 - gamma)).log()
