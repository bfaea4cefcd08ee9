"""Cross-entropy against soft labels, with the gradient in closed form.

Symbols: see :mod:`balms_det.losses.base`, and
    t       target of an output: ``(1 - share) * one-hot + share * soft label``
    p       score of an output

The (R, L) targets are never built but a block of rows at a time.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from balms_det.losses.functional import RowOffsets, row_blocks, softplus_values


@dataclass(frozen=True)
class SoftTargets:
    """The targets of a batch.

    Args:
        table: (N, L), the soft label of every label.
        gt_classes: (R,) in [0, N) and in [0, L).
        share: of the soft label in the target, (R,).
    """

    table: Tensor
    gt_classes: Tensor
    share: Tensor

    def of_rows(self, rows: slice) -> Tensor:
        """t of some rows, (N, L)."""
        labels, share = self.gt_classes[rows], self.share[rows].unsqueeze(1)
        targets = self.table.index_select(0, labels).mul_(share)
        return targets.scatter_add_(1, labels.unsqueeze(1), 1 - share)


def soft_cross_entropy(
    logits: Tensor, targets: SoftTargets, offsets: RowOffsets | None = None
) -> Tensor:
    """``-sum_c t_c log softmax(z + offsets)_c``, (R,), which can be differentiated once.

    Args:
        logits: (R, L).
        targets: see :class:`SoftTargets`; a target's sum need not be 1.
        offsets: of some rows, see :func:`balms_det.losses.functional.shifted_cross_entropy`.
    """
    return _SoftCrossEntropy.apply(logits, targets, offsets)


def soft_binary_cross_entropy(
    logits: Tensor, targets: SoftTargets, positive: Tensor, negative: Tensor
) -> Tensor:
    """``sum_c w_c * BCE(z_c, t_c)`` with ``w = t * positive + (1 - t) * negative``, (R,).

    It can be differentiated once.

    Args:
        logits: (R, L).
        targets: see :class:`SoftTargets`.
        positive, negative: (L,), weights of outputs with a target of 1 and of 0.
    """
    return _SoftBinary.apply(logits, targets, positive, negative)


def binary_slopes(
    logits: Tensor, targets: Tensor, positive: Tensor, negative: Tensor, out: Tensor | None = None
) -> Tensor:
    """``w * (p - t)``, the gradient of :func:`soft_binary_cross_entropy`, of targets (N, L)."""
    slopes = torch.sigmoid(logits, out=out).sub_(targets)
    return slopes.mul_(torch.addcmul(negative, targets, positive - negative))


class _SoftCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: SoftTargets, offsets: RowOffsets | None
    ) -> Tensor:
        losses, slopes = logits.new_empty(len(logits)), torch.empty_like(logits)
        for rows in row_blocks(logits):
            block, target = logits[rows], targets.of_rows(rows)
            if offsets is not None:
                block = block + offsets(block, targets.gt_classes[rows])
            log_prob = torch.log_softmax(block, dim=1)
            slope = torch.exp(log_prob, out=slopes[rows])
            slope.mul_(target.sum(dim=1, keepdim=True)).sub_(target)
            torch.sum(log_prob.mul_(target), dim=1, out=losses[rows])
        ctx.save_for_backward(slopes)
        return losses.neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grad.unsqueeze(1), None, None


class _SoftBinary(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: SoftTargets, positive: Tensor, negative: Tensor
    ) -> Tensor:
        losses, slopes = logits.new_empty(len(logits)), torch.empty_like(logits)
        for rows in row_blocks(logits):
            block, target = logits[rows], targets.of_rows(rows)
            binary_slopes(block, target, positive, negative, out=slopes[rows])
            loss = softplus_values(block).addcmul_(target, block, value=-1)
            loss.mul_(torch.addcmul(negative, target, positive - negative))
            torch.sum(loss, dim=1, out=losses[rows])
        ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.saved_tensors[0] * grad.unsqueeze(1), None, None, None
