"""Sums over outputs that are binary classifiers, with the gradient in closed form.

Symbols: see :mod:`balms_det.losses.base`, and
    C        outputs
    label    the output whose target is 1; a RoI whose label is C or more has none
    factor   what the term of an output is multiplied by, a constant

The dense target and the (R, C) factors are never built: of each row the label's term is put right
by its column, and factors that depend on the row are made a block of rows at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from balms_det.losses.functional import row_blocks, softplus_values

#: A function of every entry of a tensor, without gradient; its result is a new tensor.
Elementwise = Callable[[Tensor], Tensor]

#: From the logits of some rows, (N, C), and which rows they are: what broadcasts to (N, C).
OfRows = Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True)
class OutputTerm:
    """The loss of one output by its logit, and its derivative, where it is not the label and is."""

    negative: Elementwise
    negative_slope: Elementwise
    positive: Elementwise
    positive_slope: Elementwise


def symmetric_term(term: Elementwise, slope: Elementwise) -> OutputTerm:
    """One whose label has the loss that its negated logit would have anywhere else."""
    return OutputTerm(term, slope, lambda z: term(-z), lambda z: -slope(-z))


#: Binary cross-entropy of the sigmoid. Unlike in ``softplus(z) - t * z`` nothing cancels.
CROSS_ENTROPY = symmetric_term(softplus_values, torch.sigmoid)


def binary_cross_entropy_per_roi(
    logits: Tensor,
    gt_classes: Tensor,
    factors: Tensor | OfRows | None = None,
    label_factors: Tensor | None = None,
    shifts: OfRows | None = None,
) -> Tensor:
    """Binary cross-entropy of (R, C) logits against one-hot labels, summed over outputs: (R,).

    For the arguments see :func:`binary_terms_per_roi`.
    """
    return binary_terms_per_roi(logits, gt_classes, CROSS_ENTROPY, factors, label_factors, shifts)


def binary_terms_per_roi(
    logits: Tensor,
    gt_classes: Tensor,
    term: OutputTerm,
    factors: Tensor | OfRows | None = None,
    label_factors: Tensor | None = None,
    shifts: OfRows | None = None,
) -> Tensor:
    """The weighted sum of the terms of every RoI's outputs, (R,).

    No (R, C) temporary is kept for backward, which can be taken once.

    Args:
        logits: (R, C).
        gt_classes: (R,); a label of C or more (background, where it has no output) is none.
        term: what is summed.
        factors: of the outputs, (C,) or (R, C), or a function of some rows; None for 1.
        label_factors: (R,), of the labels' terms, in the place of those in ``factors``.
        shifts: what is added to the logits of some rows; ``factors`` see them as they were.

    Raises:
        ValueError: ``factors`` require gradient, which they would not get.
    """
    if isinstance(factors, Tensor) and factors.requires_grad:
        raise ValueError("factors are constants of the loss: detach them")
    parts = _Parts.of(logits, gt_classes, factors, label_factors, shifts)
    return _BinaryTerms.apply(logits, term, parts)


@dataclass(frozen=True)
class _Parts:
    """What the sum is of, beside the logits; ``column`` and ``has_label`` are (R, 1)."""

    column: Tensor
    has_label: Tensor
    factors: Tensor | OfRows | None
    label_factors: Tensor | None
    shifts: OfRows | None

    @classmethod
    def of(cls, logits: Tensor, gt_classes: Tensor, factors: Any, label: Any, shifts: Any):
        columns = logits.shape[1]
        if label is not None:
            label = label.unsqueeze(1)
        column = gt_classes.clamp(max=columns - 1).unsqueeze(1)
        return cls(column, (gt_classes < columns).unsqueeze(1), factors, label, shifts)

    def weighted(
        self, logits: Tensor, rows: slice, negative: Elementwise, positive: Elementwise
    ) -> Tensor:
        """A function of the outputs and one of the labels, times their factors, (N, C)."""
        raw = logits[rows]
        shifted = raw if self.shifts is None else raw + self.shifts(raw, rows)
        column = self.column[rows]
        values = negative(shifted)
        label = positive(shifted.gather(1, column))
        if self.factors is not None:
            factors = self._factors_of(raw, rows)
            values.mul_(factors)
            if self.label_factors is None:
                label.mul_(factors.expand_as(values).gather(1, column))
        if self.label_factors is not None:
            label.mul_(self.label_factors[rows])
        label = torch.where(self.has_label[rows], label, values.gather(1, column))
        return values.scatter_(1, column, label)

    def _factors_of(self, logits: Tensor, rows: slice) -> Tensor:
        if not isinstance(self.factors, Tensor):
            return self.factors(logits, rows)
        return self.factors[rows] if self.factors.dim() == 2 else self.factors


class _BinaryTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, term: OutputTerm, parts: _Parts) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.term, ctx.parts = term, parts
        losses = logits.new_empty(len(logits))
        for rows in row_blocks(logits):
            values = parts.weighted(logits, rows, term.negative, term.positive)
            torch.sum(values, dim=1, out=losses[rows])
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (logits,) = ctx.saved_tensors
        result, upstream = torch.empty_like(logits), grad.unsqueeze(1)
        for rows in row_blocks(logits):
            slopes = ctx.parts.weighted(
                logits, rows, ctx.term.negative_slope, ctx.term.positive_slope
            )
            torch.mul(slopes, upstream[rows], out=result[rows])
        return result, None, None
