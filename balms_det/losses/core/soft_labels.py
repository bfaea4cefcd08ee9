"""Cross-entropy against soft labels, with the gradient in closed form.

Symbols: see :mod:`balms_det.losses.core.base`, and
    t       target of an output: ``(1 - share) * one-hot + share * soft label``
    p       score of an output

The (R, L) targets are never built but a block of rows at a time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from balms_det.losses.core.functional import RowOffsets, row_blocks, softplus_values, with_gradient


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
        offsets: of some rows, see :func:`balms_det.losses.core.functional.shifted_cross_entropy`.
    """
    fixed = logits.detach()
    losses, slopes = fixed.new_empty(len(fixed)), torch.empty_like(fixed)
    for rows in row_blocks(fixed):
        block, target = fixed[rows], targets.of_rows(rows)
        if offsets is not None:
            block = block + offsets(block, targets.gt_classes[rows])
        log_prob = torch.log_softmax(block, dim=1)
        slope = torch.exp(log_prob, out=slopes[rows])
        slope.mul_(target.sum(dim=1, keepdim=True)).sub_(target)
        torch.sum(log_prob.mul_(target), dim=1, out=losses[rows])
    return with_gradient(logits, losses.neg_(), slopes)


@torch.no_grad()
def soft_binary_terms(
    logits: Tensor, targets: SoftTargets, positive: Tensor, negative: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``sum_c w_c * BCE(z_c, t_c)`` with ``w = t * positive + (1 - t) * negative``.

    Args:
        logits: (R, L).
        targets: see :class:`SoftTargets`.
        positive, negative: (L,), weights of outputs with a target of 1 and of 0.

    Returns:
        The losses, (R,); their derivatives, (R, L); and the sums over RoIs of the sizes of these,
        times t and times 1 - t: (2, L) float64.
    """
    losses, slopes = logits.new_empty(len(logits)), torch.empty_like(logits)
    sizes = logits.new_zeros((2, logits.shape[1]), dtype=torch.float64)
    for rows in row_blocks(logits):
        block, target = logits[rows], targets.of_rows(rows)
        weight = torch.addcmul(negative, target, positive - negative)
        slope = torch.sigmoid(block, out=slopes[rows]).sub_(target).mul_(weight)
        loss = softplus_values(block).addcmul_(target, block, value=-1)
        torch.sum(loss.mul_(weight), dim=1, out=losses[rows])
        size = slope.abs()
        up = target.mul_(size)
        sizes[0] += up.sum(dim=0)
        sizes[1] += size.sub_(up).sum(dim=0)
    return losses, slopes, sizes
