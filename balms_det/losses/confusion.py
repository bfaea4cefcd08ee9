"""Which class the foreground RoIs of every class are taken for, over training.

Symbols: see :mod:`balms_det.losses.base`, and
    M[i, j]  mean score of class j on RoIs whose label is i
"""

import torch
from torch import Tensor, nn

from balms_det.losses.running_state import moving_average_, sum_over_ranks


@torch.no_grad()
def confusion_sums(class_scores: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the scores of foreground RoIs by label, (K, K), and their number, (K,), float64.

    Summed over ranks; row i of the first is that of label i. Background RoIs do not count.

    Args:
        class_scores: (R, K), without background.
        gt_classes: (R,) in [0, K].
    """
    num_classes = class_scores.shape[1]
    counted = torch.cat([class_scores, torch.ones_like(class_scores[:, :1])], dim=1)
    sums = counted.new_zeros((num_classes + 1, num_classes + 1), dtype=torch.float64)
    sums.index_add_(0, gt_classes, counted.double())
    sums = sum_over_ranks(sums[:num_classes])
    return sums[:, :num_classes], sums[:, num_classes]


class RunningConfusion(nn.Module):
    """A moving mean of M, row by row: a class moves in the batches that it is in.

    State, float64: ``matrix`` (K, K), M with rows of zeros for classes never seen, and ``count``
    (K,), the foreground RoIs seen.

    Args:
        num_classes: K.
        momentum: share of a row that a batch keeps.
        normalise: whether rows are kept at sum 1 (scores that are a softmax over K classes).

    Raises:
        ValueError: ``momentum`` outside [0, 1].
    """

    def __init__(self, num_classes: int, momentum: float, normalise: bool):
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
        self.momentum = momentum
        self.normalise = normalise
        matrix = torch.zeros((num_classes, num_classes), dtype=torch.float64)
        self.register_buffer("matrix", matrix)
        self.register_buffer("count", torch.zeros(num_classes, dtype=torch.float64))

    @torch.no_grad()
    def move(self, class_scores: Tensor, gt_classes: Tensor) -> None:
        """Move by a batch: (R, K) scores of classes and (R,) labels in [0, K]."""
        sums, count = confusion_sums(class_scores, gt_classes)
        seen = (count > 0).unsqueeze(1)
        moving_average_(self.matrix, sums / count.unsqueeze(1), self.momentum, seen)
        if self.normalise:
            total = self.matrix.sum(dim=1, keepdim=True)
            self.matrix.copy_(torch.where(seen, self.matrix / total, self.matrix))
        self.count += count

    def column_shares(self) -> Tensor:
        """M with columns of sum 1, transposed: row y says which labels are taken for y, (K, K)."""
        columns = self.matrix.t()
        return columns / columns.sum(dim=1, keepdim=True).clamp(min=torch.finfo(columns.dtype).tiny)
