"""Gumbel activation (Alexandridis et al., "Long-tailed Instance Segmentation using Gumbel
Optimized Loss", ECCV 2022, GOL): an asymmetric score whose gradients suit rare events.

Symbols: see :mod:`balms_det.losses.base`, and
    p        ``exp(-exp(-z))``, score of an output
    floor    smallest p (1 - p) that the gradient is computed with, see :func:`gumbel_terms`
"""

from typing import Any

import torch
from torch import Tensor, nn

from balms_det.losses.base import BOX_LOSS_REGISTRY, BoxLoss, full_precision
from balms_det.losses.functional import rows_at_a_time

GRADIENT_FLOOR = 1e-12


def gumbel_scores(logits: Tensor) -> Tensor:
    """``exp(-exp(-z))`` in full precision."""
    return torch.exp(-torch.exp(-full_precision(logits)))


def gumbel_terms(
    logits: Tensor, gt_classes: Tensor, low: float, high: float, exact_gradient: bool
) -> Tensor:
    """Binary cross-entropy of ``exp(-exp(-z))`` against one-hot labels, every term: (R, C).

    The authors take it from the probability, where PyTorch divides the gradient by
    ``max(p (1 - p), 1e-12)``: on a label's logit below about -3.3 it fades, by 1e-12 at -3.9. That
    is what their figures were made with.

    Args:
        logits: (R, C).
        gt_classes: (R,); a label of C or more is a row of zeros in the target.
        low, high: logits are clamped to this range; outside of it there is no gradient.
        exact_gradient: take the true derivative instead of the authors'.
    """
    return _GumbelTerms.apply(logits, gt_classes, low, high, exact_gradient)


class _GumbelTerms(torch.autograd.Function):
    """The terms with their derivative in closed form: half the time of the composition."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, gt_classes: Tensor, low: float, high: float, exact: bool
    ) -> Tensor:
        terms, slope = torch.empty_like(logits), torch.empty_like(logits)
        rows = rows_at_a_time(logits)
        blocks = zip(*(tensor.split(rows) for tensor in (logits, gt_classes, terms, slope)))
        for block, labels, term, rise in blocks:
            _fill_gumbel_block(block, labels, low, high, exact, term, rise)
        ctx.save_for_backward(slope)
        return terms

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None, None, None


def _fill_gumbel_block(
    logits: Tensor,
    gt_classes: Tensor,
    low: float,
    high: float,
    exact: bool,
    terms: Tensor,
    slope: Tensor,
) -> None:
    """Write the terms of some rows and their derivatives."""
    columns = logits.shape[1]
    label = gt_classes.clamp(max=columns - 1).unsqueeze(1)
    is_target = (gt_classes < columns).unsqueeze(1)
    rate = logits.clamp(low, high).neg_().exp_()  # -log p
    score = torch.exp(-rate)
    rest = _one_minus(score, rate)
    torch.log(rest, out=terms).neg_()
    torch.mul(rate, score, out=slope).div_(rest)
    for values, own in ((terms, rate), (slope, -rate)):
        own = torch.where(is_target, own.gather(1, label), values.gather(1, label))
        values.scatter_(1, label, own)
    if not exact:
        slope *= (score * rest).div_(GRADIENT_FLOOR).clamp_(max=1)
    slope *= (logits >= low) & (logits <= high)


def _one_minus(score: Tensor, rate: Tensor) -> Tensor:
    """``1 - exp(-rate)``, of score ``exp(-rate)``: expm1 by way of the log, which is faster.

    Below one half nothing cancels in ``1 - score``. Above, the rounding of the score is undone by
    ``rate / -log(score)`` (Kahan); a score that rounds to 1 leaves the rate.
    """
    plain = 1 - score
    rest = torch.where(score < 0.5, plain, plain * rate / -torch.log(score))
    return torch.where(score == 1, rate, rest)


def reset_gumbel_classifier(linear: nn.Linear, std: float, bias: float) -> nn.Module:
    """Draw the weights of ``linear`` from N(0, std^2), aside of the random stream; set its bias."""
    with torch.random.fork_rng(devices=[]):
        nn.init.normal_(linear.weight, std=std)
    nn.init.constant_(linear.bias, bias)
    return linear


def check_clamp(low: float, high: float) -> None:
    """Raise ValueError where ``low``, a floor of logits, is not below ``high``."""
    if not low < high:
        raise ValueError(f"clamp_min must be below clamp_max, got {low} and {high}")


@BOX_LOSS_REGISTRY.register()
class GumbelLoss(BoxLoss):
    """Binary cross-entropy of the Gumbel activation on K classes and background (section 3.3).

    Background is one more class, with target 1 on background RoIs. As in the authors' code
    the loss of a batch is cut off at ``loss_clamp``: above it, the batch has no gradient.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; counts are not read.
        clamp_min, clamp_max: range that logits are clamped to in the loss, and only there.
        loss_clamp: most that the mean over RoIs can be; None for no limit.
        exact_gradient: see :func:`gumbel_terms`.
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
        check_clamp(clamp_min, clamp_max)
        self.clamp_min = clamp_min
        self.clamp_max = clamp_max
        self.loss_clamp = loss_clamp
        self.exact_gradient = exact_gradient
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
        clamp = self.clamp_min, self.clamp_max
        return gumbel_terms(logits, gt_classes, *clamp, self.exact_gradient).sum(dim=1)

    def scores(self, logits: Tensor) -> Tensor:
        return gumbel_scores(logits)

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        return reset_gumbel_classifier(linear, self.weight_std, self.bias)
