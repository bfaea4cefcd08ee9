"""Sigmoid cross-entropy: K independent binary classifiers and no background channel.

Symbols: see :mod:`balms_det.losses.base`; here L = K. A background RoI is a negative of every
class. The loss of a RoI is the sum over the K classes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from balms_det.losses.base import BOX_LOSS_REGISTRY, BoxLoss, full_precision
from balms_det.losses.functional import rows_at_a_time, softplus_values

#: A function of every entry of (N, C) values, without gradient; its result is a new tensor.
Elementwise = Callable[[Tensor], Tensor]


def signed_logits(logits: Tensor, gt_classes: Tensor) -> Tensor:
    """``logits`` with the sign of each row's label turned, (R, C); a new tensor.

    With t the target, the binary cross-entropy of an output is ``softplus(z)`` where t = 0 and
    ``softplus(-z)`` where t = 1: softplus of what this returns, everywhere. The size of its
    gradient, ``|sigmoid(z) - t|``, is the sigmoid of what this returns. No dense target is built,
    and unlike in ``softplus(z) - t * z`` nothing cancels for large z.

    Args:
        logits: (R, C).
        gt_classes: (R,); a label of C or more is a row of zeros in the target.
    """
    columns = logits.shape[1]
    column = gt_classes.clamp(max=columns - 1).unsqueeze(1)
    label_logit = logits.gather(1, column)
    is_target = (gt_classes < columns).unsqueeze(1)
    return logits.scatter(1, column, torch.where(is_target, -label_logit, label_logit))


def binary_cross_entropy_per_roi(
    logits: Tensor, gt_classes: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of (R, C) logits against one-hot labels, summed over outputs: (R,).

    For the arguments see :func:`binary_terms_per_roi`.
    """
    return binary_terms_per_roi(logits, gt_classes, weights, softplus_values, torch.sigmoid)


def binary_terms_per_roi(
    logits: Tensor,
    gt_classes: Tensor,
    weights: Tensor | None,
    term: Elementwise,
    slope: Elementwise,
) -> Tensor:
    """The weighted sum over outputs of a function of :func:`signed_logits`, (R,).

    No (R, C) temporary is kept for backward, which can be taken once.

    Args:
        logits: (R, C).
        gt_classes: (R,); a label of C or more (background, where it has no output) is a row of
            zeros in the target.
        weights: factors of the outputs, constants that broadcast to (R, C); None for 1.
        term: the function, of some rows at a time.
        slope: its derivative.

    Raises:
        ValueError: ``weights`` require gradient, which they would not get.
    """
    if weights is None:
        weights = logits.new_ones(())
    if weights.requires_grad:
        raise ValueError("weights are constants of the loss: detach them")
    return _BinaryTerms.apply(logits, gt_classes, weights.expand(logits.shape), term, slope)


class _BinaryTerms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        gt_classes: Tensor,
        weights: Tensor,
        term: Elementwise,
        slope: Elementwise,
    ) -> Tensor:
        ctx.save_for_backward(logits, gt_classes, weights)
        ctx.slope = slope
        rows = rows_at_a_time(logits)
        blocks = (tensor.split(rows) for tensor in (logits, gt_classes, weights))
        return torch.cat([term(signed_logits(z, y)).mul_(w).sum(dim=1) for z, y, w in zip(*blocks)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, gt_classes, weights = ctx.saved_tensors
        rows = rows_at_a_time(logits)
        result = torch.empty_like(logits)
        blocks = (logits, gt_classes, weights, grad.unsqueeze(1), result)
        for z, y, w, g, out in zip(*(tensor.split(rows) for tensor in blocks)):
            size = ctx.slope(signed_logits(z, y)).mul_(w).mul_(g)
            out.copy_(signed_logits(size, y))
        return result, None, None, None, None


class BinaryFamily(BoxLoss):
    """Losses whose every output is a binary classifier of its own.

    The plain loss is binary cross-entropy, summed over outputs.

    Args:
        num_classes, class_stats: see :class:`BoxLoss`.
        prior_prob: score of every output at the start of training (pi of RetinaNet, Lin et al.,
            ICCV 2017, section 4.1); the classifier's bias starts at ``-log((1 - pi) / pi)``.

    Raises:
        ValueError: ``prior_prob`` outside (0, 1).
    """

    def __init__(self, num_classes: int, class_stats: Any = None, *, prior_prob: float = 0.001):
        super().__init__(num_classes, class_stats)
        if not 0 < prior_prob < 1:
            raise ValueError(f"prior_prob must lie between 0 and 1, got {prior_prob}")
        self.prior_prob = prior_prob

    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return binary_cross_entropy_per_roi(logits, gt_classes)

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        nn.init.constant_(linear.bias, -math.log((1 - self.prior_prob) / self.prior_prob))
        return linear


class SigmoidFamily(BinaryFamily):
    """Losses on K logits whose scores are their sigmoids; see :class:`BinaryFamily`."""

    @property
    def num_logits(self) -> int:
        return self.num_classes

    def scores(self, logits: Tensor) -> Tensor:
        return F.pad(full_precision(logits).sigmoid(), (0, 1))

    def accuracy_scores(self, logits: Tensor) -> Tensor:
        # A zero logit for background: it wins where every class scores below one half.
        return F.pad(logits, (0, 1))


@BOX_LOSS_REGISTRY.register()
class SigmoidLoss(SigmoidFamily):
    """Binary cross-entropy summed over classes, the baseline of the BALMS authors on LVIS."""

    needs_class_stats = False

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return self.plain_per_roi(logits, gt_classes)
