"""Running sums and means that are exact under data-parallel training.

Detectron2 builds DistributedDataParallel with ``broadcast_buffers=False``: a buffer that
accumulates over a batch is all-reduced by its owner, here. After each call all ranks hold the same
state, the one that a single process with the whole batch would hold. Every rank must call these
functions equally often, on an empty batch too; :meth:`BoxLoss.advance` sees to that.

State is float64: sums over a whole training in float32 stop growing.

Symbols: see :mod:`balms_det.losses.core.base`.

Symbols: see :mod:`balms_det.losses.core.base`, and
    M[i, j]  mean score of class j on RoIs whose label is i

"""

import torch
from torch import Tensor
from torch import distributed as dist


def num_ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of ``value`` over all ranks, in place; ``value`` itself without distribution."""
    if num_ranks() > 1:
        dist.all_reduce(value)
    return value


def join_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The (R_k, ...) rows of all ranks one after the other, and where those of this rank start.

    The numbers of rows may differ between ranks; with several, the host waits for them.
    """
    if num_ranks() == 1:
        return rows, 0
    own = torch.tensor([len(rows)], device=rows.device)
    lengths = [torch.empty_like(own) for _ in range(num_ranks())]
    dist.all_gather(lengths, own)
    lengths = torch.cat(lengths).tolist()
    padded = rows.new_zeros(max(lengths), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    joined = torch.cat([part[:length] for part, length in zip(gathered, lengths)])
    return joined, sum(lengths[: dist.get_rank()])


@torch.no_grad()
def class_sums(gt_classes: Tensor, rows: int, *values: Tensor) -> Tensor:
    """Sums over the RoIs of each label and over all ranks, (1 + len(values), rows) float64.

    The first row is the number of RoIs of each label, the next the sum of each of ``values``.

    Args:
        gt_classes: (R,) in [0, rows); R may be 0.
        rows: how many labels there are: ``K + 1`` with background.
        values: each (R,), to be summed by label.
    """
    columns = [torch.ones_like(gt_classes, dtype=torch.float64), *(v.double() for v in values)]
    sums = gt_classes.new_zeros((len(columns), rows), dtype=torch.float64)
    sums.index_add_(1, gt_classes, torch.stack(columns))
    return sum_over_ranks(sums)


@torch.no_grad()
def moving_average_(average: Tensor, value: Tensor, momentum: float, seen: Tensor) -> None:
    """``average = momentum * average + (1 - momentum) * value`` where ``seen``, in place.

    Args:
        average: float64 state.
        value: of the same shape; not read where not ``seen``, so 0 / 0 is legal there.
        momentum: share of the old value that is kept, in [0, 1].
        seen: boolean, of the same shape.
    """
    moved = momentum * average + (1 - momentum) * value.to(average.dtype)
    average.copy_(torch.where(seen, moved, average))


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


def mean_over_ranks(tensors: list[Tensor]) -> list[Tensor]:
    """The mean of every tensor over the ranks, in one exchange."""
    if num_ranks() == 1:
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= num_ranks()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors)]
