"""The step that a ``torch.optim.SGD`` would make, without making it, and its derivative.

Symbols: p a parameter, g its gradient, m the momentum buffer; the update is torch's:
``d = g + weight_decay * p``, then ``m' = momentum * m + (1 - dampening) * d`` (the first time
``m' = d``), and ``p' = p - lr * m'``, or with nesterov ``p' = p - lr * (d + momentum * m')``.
"""

import torch
from torch import Tensor, nn


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
