"""Gumbel activation (Alexandridis et al., "Long-tailed Instance Segmentation using Gumbel
Optimized Loss", ECCV 2022, GOL): an asymmetric score whose gradients suit rare events.

Symbols: see :mod:`balms_det.losses.core.base`, and
    p        ``exp(-exp(-z))``, score of an output
    floor    smallest p (1 - p) that the gradient is computed with, see :class:`GumbelActivation`

Symbols: see :mod:`balms_det.losses.gumbel`, :mod:`balms_det.losses.eql` and
:mod:`balms_det.losses.droploss`; here L = K.

"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY, BoxLoss, full_precision
from balms_det.losses.core.binary_terms import OutputTerm, binary_terms_per_roi
from balms_det.losses.droploss import DroppingFamily
from balms_det.losses.eql import EQLLoss

GRADIENT_FLOOR = 1e-12
LOWEST = -math.log(80)  # p = exp(-80) is nothing beside 1, and float32 still holds it
TINY = 1e-30
LONGEST = 100.0  # where PyTorch's binary cross-entropy of probabilities cuts off


def gumbel_scores(logits: Tensor) -> Tensor:
    """``exp(-exp(-z))`` in full precision."""
    return torch.exp(-torch.exp(-full_precision(logits)))


@dataclass(frozen=True)
class GumbelActivation:
    """Binary cross-entropy of ``exp(-exp(-z))``, term by term and with the derivative.

    The authors take it from the probability, where PyTorch divides the gradient by
    ``max(p (1 - p), 1e-12)``: on a label's logit below about -3.3 it fades, by 1e-12 at -3.9. That
    is what their figures were made with. A label's loss is 100 at most there, at -4.6.

    Args:
        low, high: logits are clamped to this range; outside of it there is no gradient.
        exact_gradient: take the true derivative instead of the authors'.

    Raises:
        ValueError: ``low`` is not below ``high``.
    """

    low: float
    high: float
    exact_gradient: bool

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"clamp_min must be below clamp_max, got {self.low} and {self.high}")

    def term(self) -> OutputTerm:
        return OutputTerm(self.negative, self.positive)

    def negative(self, logits: Tensor, slope: Tensor) -> Tensor:
        """``-log(1 - p)``, the loss of an output that is not the label; see ``WithSlope``."""
        # Below LOWEST p is nothing beside 1, and so is its slope.
        clamped = logits.clamp(max(self.low, LOWEST), self.high)
        rate = clamped.neg().exp_()
        score = rate.neg().exp_()
        rest = _one_minus(score, rate)
        torch.mul(rate, score, out=slope).div_(rest)
        # Into floats: a mask of booleans takes three times as long on a CPU.
        slope.mul_(torch.eq(clamped, logits, out=clamped))
        self._fade(slope, score, rest)
        return rest.log_().neg_()

    def positive(self, logits: Tensor, slope: Tensor) -> Tensor:
        """``-log p``, the loss of a label."""
        rate = logits.clamp(self.low, self.high).neg_().exp_()
        inside = (logits >= self.low) & (logits <= self.high)
        torch.mul(rate, inside, out=slope).neg_()
        score = rate.neg().exp_()
        self._fade(slope, score, _one_minus(score, rate))
        return rate if self.exact_gradient else rate.clamp_(max=LONGEST)

    def _fade(self, slope: Tensor, score: Tensor, rest: Tensor) -> None:
        """Make the slope that of the authors' code; uses up ``score``."""
        if not self.exact_gradient:
            slope.mul_(score.mul_(rest).div_(GRADIENT_FLOOR).clamp_(max=1))


def _one_minus(score: Tensor, rate: Tensor) -> Tensor:
    """``1 - exp(-rate)``, of score ``exp(-rate)``: expm1 by way of the log, faster on a CPU.

    The rounding of the score is undone by ``rate / -log(score)`` (Kahan). Where it is 1 both of
    what is divided are TINY, which leaves the rate; it may not be 0.
    """
    logarithm = score.log().sub_(TINY)
    return score.sub(1).sub_(TINY).div_(logarithm).mul_(rate)


def reset_gumbel_classifier(linear: nn.Linear, std: float, bias: float) -> nn.Module:
    """Draw the weights of ``linear`` from N(0, std^2), aside of the random stream; set its bias."""
    with torch.random.fork_rng(devices=[]):
        nn.init.normal_(linear.weight, std=std)
    nn.init.constant_(linear.bias, bias)
    return linear


@BOX_LOSS_REGISTRY.register()
class GumbelLoss(BoxLoss):
    """Binary cross-entropy of the Gumbel activation on K classes and background (section 3.3).

    Background is one more class, with target 1 on background RoIs. As in the authors' code
    the loss of a batch is cut off at ``loss_clamp``: above it, the batch has no gradient.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; counts are not read.
        clamp_min, clamp_max: range that logits are clamped to in the loss, and only there.
        loss_clamp: most that the mean over RoIs can be; None for no limit.
        exact_gradient: see :class:`GumbelActivation`.
        weight_std, bias: how the classifier starts.

    Raises:
        ValueError: ``clamp_min`` is not below ``clamp_max``.
    """

    needs_class_stats = False
    has_detached_factors = True
    exact_over_ranks = False  # each rank's batch is cut off by itself, as in the authors' code

    def __init__(
        self,
        num_classes: int,
        class_stats: Any = None,
        *,
        clamp_min: float = -4.0,
        clamp_max: float = 10.0,
        loss_clamp: float | None = 20.0,
        exact_gradient: bool = False,
        weight_std: float = 0.001,
        bias: float = -2.0,
    ):
        super().__init__(num_classes, class_stats)
        self.activation = GumbelActivation(clamp_min, clamp_max, exact_gradient)
        self.loss_clamp = loss_clamp
        self.weight_std = weight_std
        self.bias = bias

    @property
    def num_logits(self) -> int:
        return self.num_classes + 1

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        loss = self.plain_per_roi(logits, gt_classes)
        if self.loss_clamp is None:
            return loss
        constant = loss.detach()
        mean = constant.mean()
        # Not a product with 0: rows keep their place in the graph, with no gradient.
        return torch.where(mean > self.loss_clamp, constant * (self.loss_clamp / mean), loss)

    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return binary_terms_per_roi(logits, gt_classes, self.activation.term())

    def scores(self, logits: Tensor) -> Tensor:
        return gumbel_scores(logits)

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        return reset_gumbel_classifier(linear, self.weight_std, self.bias)


@BOX_LOSS_REGISTRY.register()
class GumbelEQLLoss(EQLLoss):
    """:class:`EQLLoss` of the Gumbel activation, without a background output.

    The sum of a batch is not cut off, as opposed to :class:`GumbelLoss`.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        lambda_: image frequency below which a class is rare; the authors' for LVIS v1.
        clamp_min, clamp_max, exact_gradient, weight_std, bias: see :class:`GumbelLoss`.

    Raises:
        ValueError: ``clamp_min`` is not below ``clamp_max``.
    """

    has_detached_factors = True

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        lambda_: float = 1.1e-3,
        clamp_min: float = -4.0,
        clamp_max: float = 10.0,
        exact_gradient: bool = False,
        weight_std: float = 0.001,
        bias: float = -2.0,
    ):
        super().__init__(num_classes, class_stats, lambda_=lambda_)
        self.activation = GumbelActivation(clamp_min, clamp_max, exact_gradient)
        self.weight_std, self.bias = weight_std, bias

    def term(self) -> OutputTerm:
        return self.activation.term()

    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return binary_terms_per_roi(logits, gt_classes, self.term())

    def scores(self, logits: Tensor) -> Tensor:
        return F.pad(gumbel_scores(logits), (0, 1))

    def accuracy_scores(self, logits: Tensor) -> Tensor:
        # Background wins where every class scores below one half.
        return F.pad(gumbel_scores(logits), (0, 1), value=0.5)

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        return reset_gumbel_classifier(linear, self.weight_std, self.bias)


@BOX_LOSS_REGISTRY.register()
class GumbelDropLoss(DroppingFamily, GumbelEQLLoss):
    """:class:`DropLoss` of the Gumbel activation: the loss of GOL's LVIS v1 results.

    Its arguments are those of :class:`GumbelEQLLoss`.
    """
