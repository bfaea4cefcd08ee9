"""The gradient of the meta loss by the RoI factors, in closed form.

Symbols and shapes, for one box predictor
    W       parameters of the classifier, of any module that maps features to logits
    h_i     (D,) feature of training RoI i of R;  z_i its (L,) logits;  l_i its loss
    omega   (R,) factors;  a  the weight of ``loss_cls``
    G       (R, L) rows ``dl_i / dz_i``
    V       ``dL_meta / dW'``
    c       ``-dW' / dg`` of the optimiser: lr, or with nesterov lr * (1 + momentum)

The inner step is ``W' = W - c * (a / R) * sum_i omega_i * dl_i/dW + (terms without omega)``, so

    dL_meta / domega_i = -c * (a / R) * < G_i , J_i V >,   J_i = dz_i / dW,

and ``J_i V``, the change of RoI i's logits when W moves along V, is ``V h_i`` for a linear
classifier. Features, logits and G are at hand: no second forward of the training batch and no
second-order autograd (the derivation holds because l_i depends on the logits of RoI i alone).

Symbols: p a parameter, g its gradient, m the momentum buffer; the update is torch's:
``d = g + weight_decay * p``, then ``m' = momentum * m + (1 - dampening) * d`` (the first time
``m' = d``), and ``p' = p - lr * m'``, or with nesterov ``p' = p - lr * (d + momentum * m')``.

"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from balms_det.losses.core.base import BoxLoss, full_precision
from balms_det.losses.core.context import ContextLoss
from balms_det.losses.core.state import mean_over_ranks, num_ranks


@dataclass(frozen=True)
class RoIBatch:
    """The RoIs of a batch before one box predictor: features (R, D), logits (R, L), labels (R,).

    The logits of a training batch are connected to the classifier; features have no graph. A
    :class:`balms_det.losses.ContextLoss` gets its ``context`` from here.
    """

    features: Tensor
    logits: Tensor
    gt_classes: Tensor
    context: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One box predictor, of which a cascade has several, with its training and meta batch."""

    classifier: nn.Module
    cls_loss: BoxLoss
    train: RoIBatch
    meta: RoIBatch
    loss_weight: float = 1.0

    def row_gradients(self) -> tuple[Tensor, Tensor]:
        """``BoxLoss.row_gradients`` of the training batch, whose state moves once."""
        in_context = isinstance(self.cls_loss, ContextLoss)
        if in_context:
            self.cls_loss.context = self.train.context
        rows = self.cls_loss.row_gradients(self.train.logits, self.train.gt_classes)
        if in_context:
            self.cls_loss.context = {}
        return rows


def plain_meta_loss(cls_loss: BoxLoss, logits: Tensor, gt_classes: Tensor) -> Tensor:
    """The paper's meta loss: the loss without its adjustment for the long tail."""
    return cls_loss.plain_loss(logits, gt_classes)


def training_meta_loss(cls_loss: BoxLoss, logits: Tensor, gt_classes: Tensor) -> Tensor:
    """The meta loss of the authors' code: the training loss itself, whose state does not move.

    Their code shifts the logits in place before it computes the meta loss from them.
    """
    with _evaluating(cls_loss):
        return cls_loss(logits, gt_classes)


META_LOSSES: dict[str, Callable[[BoxLoss, Tensor, Tensor], Tensor]] = {
    "paper": plain_meta_loss,
    "reference": training_meta_loss,
}


def hypergradient(
    stage: Stage,
    row_gradients: Tensor,
    omega: Tensor,
    optimizer: torch.optim.SGD,
    meta_loss: Callable[[BoxLoss, Tensor, Tensor], Tensor] = plain_meta_loss,
) -> tuple[Tensor, Tensor]:
    """``dL_meta / domega`` and L_meta.

    With several ranks every rank passes its own RoIs and gets the gradient by its own factors; the
    inner step and L_meta are those of all ranks together.

    Args:
        stage: its training logits still carry the graph to the classifier.
        row_gradients: G, (R, L), of the dtype of the logits in full precision.
        omega: (R,) without graph.
        optimizer: the one of the real step, before it.
        meta_loss: of ``META_LOSSES``.

    Returns:
        (R,) gradient and the scalar meta loss of this rank.
    """
    scale = stage.loss_weight / max(len(omega), 1)
    train = stage.train
    parameters = dict(stage.classifier.named_parameters())
    upstream = (row_gradients * (omega * scale).unsqueeze(1)).to(train.logits.dtype)
    gradients = torch.autograd.grad(
        train.logits, list(parameters.values()), upstream, retain_graph=True
    )
    steps = [
        virtual_sgd_step(optimizer, parameter, gradient)
        for parameter, gradient in zip(parameters.values(), mean_over_ranks(list(gradients)))
    ]
    moved = {name: value.requires_grad_() for name, (value, _) in zip(parameters, steps)}
    logits = functional_call(stage.classifier, moved, full_precision(stage.meta.features))
    loss = meta_loss(stage.cls_loss, logits, stage.meta.gt_classes)
    slopes = mean_over_ranks(list(torch.autograd.grad(loss, list(moved.values()))))
    direction = {
        name: -slope * factor for name, slope, (_, factor) in zip(parameters, slopes, steps)
    }
    change = logits_along(stage.classifier, full_precision(train.features), direction)
    by_omega = (row_gradients * change).sum(dim=1) * (scale / num_ranks())
    return by_omega, loss.detach()


def logits_along(classifier: nn.Module, features: Tensor, direction: dict[str, Tensor]) -> Tensor:
    """How the logits change when the parameters move along ``direction``: ``J V``, (R, L).

    Args:
        classifier: a Linear, or another module whose forward supports forward-mode autograd.
        features: (R, D).
        direction: a tensor for every parameter, by name.
    """
    if type(classifier) is nn.Linear:
        return nn.functional.linear(features, direction["weight"], direction.get("bias"))
    values = {name: value.detach() for name, value in classifier.named_parameters()}
    return jvp(lambda moved: functional_call(classifier, moved, features), (values,), (direction,))[
        1
    ]


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def virtual_sgd_step(
    optimizer: torch.optim.SGD, parameter: nn.Parameter, gradient: Tensor
) -> tuple[Tensor, float]:
    """Where the optimiser would take a parameter, and how that depends on the gradient.

    Args:
        optimizer: as it is before its real step; nothing in it changes.
        parameter: one of its parameters.
        gradient: of the loss by the parameter.

    Returns:
        The new value, without graph, and the factor c of ``dp'/dg = -c``.

    Raises:
        ValueError: the optimiser does not train the parameter.
    """
    group = _group_of(optimizer, parameter)
    lr, momentum = float(group["lr"]), group["momentum"]
    buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
    parameter = parameter.detach()
    direction = gradient + group["weight_decay"] * parameter
    if momentum == 0:
        return parameter - lr * direction, lr
    kept = 1.0 if buffer is None else 1 - group["dampening"]
    moved = direction if buffer is None else momentum * buffer + kept * direction
    if group["nesterov"]:
        return parameter - lr * (direction + momentum * moved), lr * (1 + momentum * kept)
    return parameter - lr * moved, lr * kept


def _group_of(optimizer: torch.optim.SGD, parameter: nn.Parameter) -> dict:
    for group in optimizer.param_groups:
        if any(parameter is other for other in group["params"]):
            return group
    raise ValueError(
        "the optimiser does not train the box classifier, so there is nothing that a meta learner "
        'could act on: put "cls_score" in MODEL.DECOUPLED.TRAIN_ONLY or switch META.NAME off'
    )
