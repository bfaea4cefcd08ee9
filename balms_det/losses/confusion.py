"""Which class the foreground RoIs of every class are taken for, over training.

Symbols: see :mod:`balms_det.losses.base`, and
    M[i, j]  mean score of class j on RoIs whose label is i
"""

import torch
from torch import Tensor

from balms_det.losses.running_state import sum_over_ranks


@torch.no_grad()
def confusion_sums(class_scores: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the scores of foreground RoIs by label, (K, K), and their number, (K,).

    Summed over ranks, in the dtype of the scores; row i of the first is that of label i.
    Background RoIs do not count.

    Args:
        class_scores: (R, K), without background.
        gt_classes: (R,) in [0, K].
    """
    num_classes = class_scores.shape[1]
    # One tensor, so that ranks talk to each other once: the last column counts.
    sums = class_scores.new_zeros((num_classes + 1, num_classes + 1))
    sums[:, :num_classes].index_add_(0, gt_classes, class_scores)
    ones = class_scores.new_ones(len(class_scores))
    sums[:, num_classes].index_add_(0, gt_classes, ones)
    sums = sum_over_ranks(sums[:num_classes])
    return sums[:, :num_classes], sums[:, num_classes]


@torch.no_grad()
def move_confusion_(
    matrix: Tensor,
    count: Tensor,
    class_scores: Tensor,
    gt_classes: Tensor,
    *,
    momentum: float,
    normalise: bool,
) -> None:
    """Move a moving mean of M by a batch, in place; a row moves when its class is in the batch.

    Args:
        matrix: (K, K) float64, M, with rows of zeros for classes never seen.
        count: (K,) float64, foreground RoIs seen.
        class_scores, gt_classes: see :func:`confusion_sums`.
        momentum: share of a row that a batch keeps.
        normalise: whether rows that move are then scaled to sum 1.
    """
    sums, rois = confusion_sums(class_scores, gt_classes)
    seen = (rois > 0).unsqueeze(1)
    mean = sums.double() / rois.clamp(min=1).unsqueeze(1)
    matrix.lerp_(mean, (1 - momentum) * seen.double())
    if normalise:
        matrix /= torch.where(seen, matrix.sum(dim=1, keepdim=True), 1.0)
    count += rois


def column_shares(matrix: Tensor) -> Tensor:
    """M with columns of sum 1, transposed, (K, K): row y says which labels are taken for y."""
    columns = matrix.t()
    return columns / columns.sum(dim=1, keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)
