"""Running sums and means that are exact under data-parallel training.

Detectron2 builds DistributedDataParallel with ``broadcast_buffers=False``: a buffer that
accumulates over a batch is all-reduced by its owner, here. After each call all ranks hold the same
state, the one that a single process with the whole batch would hold. Every rank must call these
functions equally often, on an empty batch too; :meth:`BoxLoss.advance` sees to that.

State is float64: sums over a whole training in float32 stop growing.

Symbols: see :mod:`balms_det.losses.base`.
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
