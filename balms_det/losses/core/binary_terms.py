"""Sums over outputs that are binary classifiers, with the gradient in closed form.

Symbols: see :mod:`balms_det.losses.core.base`, and
    C        outputs
    label    the output whose target is 1; a RoI whose label is C or more has none
    factor   what the term of an output is multiplied by, a constant

The dense target and the (R, C) factors are never built: labels are taken out by their column and
summed apart, and factors that depend on the row are made a block of rows at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from balms_det.losses.core.functional import row_blocks, softplus_values, with_gradient

#: Losses of outputs by their logits, as a new tensor; their derivatives go into the second
#: argument, which is of the same shape. Entry by entry, without gradient.
WithSlope = Callable[[Tensor, Tensor], Tensor]

#: From the logits of some rows, (N, C), and which rows they are: what broadcasts to (N, C).
OfRows = Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True)
class OutputTerm:
    """The loss of an output, where it is not the label and where it is."""

    negative: WithSlope
    positive: WithSlope


def symmetric_term(negative: WithSlope) -> OutputTerm:
    """One whose label has the loss that its negated logit would have anywhere else."""

    def positive(logits: Tensor, slope: Tensor) -> Tensor:
        values = negative(-logits, slope)
        slope.neg_()
        return values

    return OutputTerm(negative, positive)


def _softplus(logits: Tensor, slope: Tensor) -> Tensor:
    torch.sigmoid(logits, out=slope)
    return softplus_values(logits)


#: Binary cross-entropy of the sigmoid. Unlike in ``softplus(z) - t * z`` nothing cancels.
CROSS_ENTROPY = symmetric_term(_softplus)


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

    The derivative is computed with the value and is all that is kept; it can be taken once.

    Args:
        logits: (R, C).
        gt_classes: (R,); a label of C or more (background, where it has no output) is none.
        term: what is summed.
        factors: of all outputs but the labels, (C,), or a function of some rows; None for 1.
        label_factors: of the labels, (R,); None for 1.
        shifts: what is added to the logits of some rows; ``factors`` see them as they were.

    Raises:
        ValueError: factors require gradient, which they would not get.
    """
    if any(isinstance(f, Tensor) and f.requires_grad for f in (factors, label_factors)):
        raise ValueError("factors are constants of the loss: detach them")
    parts = _Parts.of(logits, gt_classes, factors, label_factors, shifts)
    fixed = logits.detach()
    losses, own = fixed.new_empty(len(logits)), fixed.new_empty(len(logits), 1)
    slopes, of_labels = torch.empty_like(fixed), torch.empty_like(own)
    for rows in row_blocks(fixed):
        values, own[rows] = parts.block(term, fixed[rows], rows, slopes[rows])
        torch.sum(values, dim=1, out=losses[rows])
    losses += term.positive(own, of_labels).mul_(parts.label_factors).squeeze(1)
    of_labels.mul_(parts.label_factors).addcmul_(slopes.gather(1, parts.column), parts.others)
    return with_gradient(logits, losses, slopes.scatter_(1, parts.column, of_labels))


@dataclass(frozen=True)
class _Parts:
    """What the sum is of, beside the logits.

    ``column`` is that of a row's label, (R, 1); a row that has none has its last column there, and
    ``label_factors``, (R, 1), are 0 then. ``others`` is 0 for labels and 1 in rows without, (R, 1).
    """

    column: Tensor
    others: Tensor
    factors: Tensor | OfRows | None
    label_factors: Tensor
    shifts: OfRows | None

    @classmethod
    def of(
        cls,
        logits: Tensor,
        gt_classes: Tensor,
        factors: Tensor | OfRows | None,
        label_factors: Tensor | None,
        shifts: OfRows | None,
    ) -> "_Parts":
        columns = logits.shape[1]
        column = gt_classes.clamp(max=columns - 1).unsqueeze(1)
        has_label = (gt_classes < columns).to(logits.dtype).unsqueeze(1)
        of_labels = has_label if label_factors is None else label_factors.unsqueeze(1) * has_label
        return cls(column, 1 - has_label, factors, of_labels, shifts)

    def block(
        self, term: OutputTerm, logits: Tensor, rows: slice, slopes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Losses of all outputs but the labels, (N, C), and the labels' logits, (N, 1).

        The derivatives go into ``slopes``, (N, C), where those in the labels' columns mean nothing.
        """
        shifted = logits if self.shifts is None else logits + self.shifts(logits, rows)
        values = term.negative(shifted, slopes)
        if self.factors is not None:
            fixed = isinstance(self.factors, Tensor)
            factors = self.factors if fixed else self.factors(logits, rows)
            values.mul_(factors)
            slopes.mul_(factors)
        column = self.column[rows]
        values.scatter_(1, column, values.gather(1, column).mul_(self.others[rows]))
        return values, shifted.gather(1, column)
