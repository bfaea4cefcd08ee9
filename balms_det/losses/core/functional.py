"""How losses cost few passes over their logits: closed-form gradients, blocks that fit a cache.

Cross-entropy of shifted or transformed logits, softplus, and work on foreground RoIs alone.

Symbols: see :mod:`balms_det.losses.core.base`.

Symbols: see :mod:`balms_det.losses.core.base`.

"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Elements that are worked on at a time on a CPU: 320 kB of float32, so that a few buffers stay in
# its cache, and few enough calls. Accelerators take all rows at once.
CPU_ELEMENTS = 80_000


#: Offsets that depend on the row: from (N, L) logits and (N,) labels to (N, L) offsets.
RowOffsets = Callable[[Tensor, Tensor], Tensor]


def shifted_cross_entropy(
    logits: Tensor, offsets: Tensor | RowOffsets, gt_classes: Tensor
) -> Tensor:
    """Cross-entropy of every row of ``logits + offsets``, (R,).

    The value and gradient of ``F.cross_entropy(logits + offsets, gt_classes, reduction="none")``
    without its (R, L) temporaries (the sum and, in backward, the gradient of log-softmax), which
    on a CPU cost a fifth of the loss.

    Args:
        logits: (R, L) float32 or float64.
        offsets: (L,), constants of the same dtype, or a function that gives the offsets of some
            rows, without gradient: it is called on as many rows at a time as are worked on.
        gt_classes: (R,) in [0, L).

    Raises:
        ValueError: ``offsets`` require gradient, which they would not get.
        RuntimeError: in backward, when the gradient is to be differentiated again.
    """
    if isinstance(offsets, Tensor) and offsets.requires_grad:
        raise ValueError("offsets are constants of the loss: detach them")
    return _ShiftedCrossEntropy.apply(logits, offsets, gt_classes)


class _ShiftedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, offsets: Tensor | RowOffsets, gt_classes: Tensor
    ) -> Tensor:
        rows = rows_at_a_time(logits)
        log_prob = logits.new_empty(logits.shape)
        shifted = logits.new_empty((rows, logits.shape[1]))
        blocks = (logits, gt_classes, log_prob)
        for block, labels, out in zip(*(tensor.split(rows) for tensor in blocks)):
            shift = offsets(block, labels) if callable(offsets) else offsets
            torch.add(block, shift, out=shifted[: len(block)])
            torch.log_softmax(shifted[: len(block)], dim=1, out=out)
        ctx.save_for_backward(log_prob, gt_classes)
        return -log_prob.gather(1, gt_classes.unsqueeze(1)).squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # only under create_graph=True
            raise RuntimeError(
                "shifted_cross_entropy can be differentiated once; for second derivatives use "
                "torch.nn.functional.cross_entropy(logits + offsets, gt_classes)"
            )
        log_prob, gt_classes = ctx.saved_tensors
        rows = rows_at_a_time(log_prob)
        grad_logits = torch.empty_like(log_prob)
        # Gradient of the log-probabilities: non-zero at the labels only, so one block is reused.
        sparse = log_prob.new_zeros((rows, log_prob.shape[1]))
        blocks = (log_prob, grad_logits, -grad.unsqueeze(1), gt_classes.unsqueeze(1))
        for block, out, value, label in zip(*(tensor.split(rows) for tensor in blocks)):
            upstream = sparse[: len(block)].scatter_(1, label, value)
            torch.ops.aten._log_softmax_backward_data.out(upstream, block, 1, block.dtype, out=out)
            upstream.scatter_(1, label, 0.0)
        return grad_logits, None, None


def with_gradient(logits: Tensor, losses: Tensor, slopes: Tensor) -> Tensor:
    """``losses`` as a function of ``logits``, which can be differentiated once.

    For a loss whose derivative is known in closed form and cheap where the loss is computed.

    Args:
        logits: (R, L).
        losses: (R,), without graph.
        slopes: (R, L), the derivative of every RoI's loss by its logits, without graph.
    """
    return _WithGradient.apply(logits, losses, slopes)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, losses: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(slopes)
        return losses.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grad.unsqueeze(1), None, None


#: From (N, L) logits and (N,) labels to other logits, new, and the factors of their gradients.
Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def transformed_cross_entropy(logits: Tensor, gt_classes: Tensor, transform: Transform) -> Tensor:
    """Cross-entropy of ``transform(logits, gt_classes)``, (R,), which can be differentiated once.

    Args:
        logits: (R, L).
        gt_classes: (R,) in [0, L).
        transform: called on as many rows at a time as are worked on, without gradient; what it says
            of gradients is between a logit and the one that it becomes.
    """
    fixed, label = logits.detach(), gt_classes.unsqueeze(1)
    own, slopes = fixed.new_empty(len(logits), 1), torch.empty_like(fixed)
    for rows in row_blocks(fixed):
        values, factors = transform(fixed[rows], gt_classes[rows])
        log_prob = torch.log_softmax(values, dim=1)
        own[rows] = log_prob.gather(1, label[rows])
        slope = torch.exp(log_prob, out=slopes[rows])
        slope.scatter_(1, label[rows], torch.expm1(own[rows])).mul_(factors)
    return with_gradient(logits, -own.squeeze(1), slopes)


def on_cpu(tensor: Tensor) -> bool:
    """Whether to look at a value costs nothing, and to work on more than a cache holds does."""
    return tensor.device.type == "cpu"


def softplus_values(values: Tensor) -> Tensor:
    """``F.softplus``, without gradient: for blocks that fit the cache of a CPU.

    PyTorch's log1p is up to ten times slower there than its log. With u the rounded ``1 + y``,
    log1p(y) is log(u) plus what the rounding has taken away, ``y - (u - 1)``, as y is at most 1.
    """
    if not on_cpu(values):
        return F.softplus(values)
    y = values.abs().neg_().exp_()
    u = y + 1
    lost = y.sub_(u - 1)
    return u.log_().add_(lost).add_(values.clamp(min=0))


def rows_at_a_time(logits: Tensor) -> int:
    """How many rows to work on at a time, 1 or more: all on an accelerator, else a cache full."""
    rows = max(1, len(logits))
    if not on_cpu(logits):
        return rows
    return min(rows, max(1, CPU_ELEMENTS // logits.shape[1]))


def row_blocks(logits: Tensor) -> Iterator[slice]:
    """The rows to work on at a time, one block after the other."""
    rows = rows_at_a_time(logits)
    for start in range(0, len(logits), rows):
        yield slice(start, start + rows)


def per_object(
    loss: Callable[[Tensor, Tensor], Tensor], num_classes: int, logits: Tensor, gt_classes: Tensor
) -> Tensor:
    """``loss(logits, labels)``, (N,), of foreground RoIs, and 0 on background: (R,).

    It is computed for foreground RoIs alone where that is free (:func:`rows_of_objects`).
    """
    if not on_cpu(logits):
        is_object = gt_classes < num_classes
        return loss(logits, gt_classes.clamp(max=num_classes - 1)) * is_object
    objects = (gt_classes < num_classes).nonzero().squeeze(1)
    values = loss(logits.index_select(0, objects), gt_classes.index_select(0, objects))
    return values.new_zeros(len(logits)).index_copy(0, objects, values)


def rows_of_objects(num_classes: int, gt_classes: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """``values`` and labels of foreground RoIs alone where that is free, else of all RoIs.

    On a CPU it is, and background is most of a batch; an accelerator would have to wait for their
    number. Returns the rows of ``values`` (R, ...) and then of ``gt_classes`` (R,).
    """
    if not on_cpu(gt_classes):
        return values, gt_classes
    objects = (gt_classes < num_classes).nonzero().squeeze(1)
    return values.index_select(0, objects), gt_classes.index_select(0, objects)


def lowest_keys(keys: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """The ``count`` eligible entries with the lowest keys, column by column, as a mask.

    With uniform keys it is a random subset of that size, drawn without replacement; with keys
    ``-log(1 - u) / w`` it is one drawn with probabilities in proportion to w (Efraimidis and
    Spirakis, 2006).

    Args:
        keys: (N,) or (N, B).
        eligible: of the same shape, boolean.
        count: () or (B,), how many to keep; where fewer are eligible, all of them.

    Returns:
        Boolean, of the shape of ``keys``.
    """
    rank = torch.where(eligible, keys, math.inf).argsort(dim=0).argsort(dim=0)
    return eligible & (rank < count)


def coarse_uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uniform draws from (0, 1) in steps of 1 / 65,536, of the dtype and device of ``like``.

    Four for each of the generator's words: on a CPU half the time of ``torch.rand``.
    """
    words = torch.empty(-(-math.prod(shape) // 4), dtype=torch.int64, device=like.device)
    steps = words.random_(-(2**63), None).view(torch.int16)[: math.prod(shape)].view(shape)
    draws = steps.to(like.dtype)
    middle = like.new_full((), 0.5 + 2**-17)
    return torch.add(middle, draws, alpha=2**-16, out=draws)


def rank_in_class(gt_classes: Tensor) -> Tensor:
    """How many earlier RoIs have the same label, (R,) integers."""
    ordered, order = torch.sort(gt_classes, stable=True)
    position = torch.arange(len(ordered), device=ordered.device)
    rank = position - torch.searchsorted(ordered, ordered)
    return torch.empty_like(rank).scatter_(0, order, rank)
