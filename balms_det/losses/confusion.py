"""Which class the foreground RoIs of every class are taken for, over training.

Symbols: see :mod:`balms_det.losses.base`, and
    M[i, j]  mean score of class j on RoIs whose label is i
"""

import torch
from torch import Tensor

from balms_det.losses.running_state import class_sums, num_ranks, sum_over_ranks


@torch.no_grad()
def add_confusion_(
    matrix: Tensor, class_scores: Tensor, gt_classes: Tensor, factors: Tensor | None = None
) -> None:
    """Add the scores of foreground RoIs to the row of their label, in place, over all ranks.

    Args:
        matrix: (K, K) float64, the same on every rank.
        class_scores: (R, K), without background.
        gt_classes: (R,) in [0, K]; RoIs of background count nothing.
        factors: of the labels' rows, (K,) float64; None for 1.
    """
    num_classes = len(matrix)
    if factors is None:
        factors = matrix.new_ones(num_classes)
    if num_ranks() > 1:
        sums = class_scores.new_zeros((num_classes + 1, num_classes))
        sums = sum_over_ranks(sums.index_add_(0, gt_classes, class_scores)[:num_classes])
        matrix.addcmul_(sums.double(), factors.unsqueeze(1))
        return
    label = gt_classes.clamp(max=num_classes - 1)
    share = factors[label] * (gt_classes < num_classes)
    matrix.index_add_(0, label, class_scores * share.unsqueeze(1))


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
        class_scores, gt_classes: see :func:`add_confusion_`.
        momentum: share of a row that a batch keeps.
        normalise: whether rows that move are then scaled to sum 1.
    """
    rois = class_sums(gt_classes, len(matrix) + 1)[0, :-1]
    seen = rois > 0
    # Not torch.where of two numbers, whose result is float32.
    matrix.mul_(1 - (1 - momentum) * seen.double().unsqueeze(1))
    add_confusion_(matrix, class_scores, gt_classes, (1 - momentum) / rois.clamp(min=1))
    if normalise:
        matrix /= torch.where(seen, matrix.sum(dim=1), 1.0).unsqueeze(1)
    count += rois
