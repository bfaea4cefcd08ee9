"""Stage 2 of decoupled training: what trains, and what is frozen (BALMS, section 3.2; cRT)."""

import logging

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

logger = logging.getLogger(__name__)


def freeze_all_but(model: nn.Module, names: list[str]) -> nn.Module:
    """Freeze every parameter whose dotted name has none of ``names`` as one of its parts.

    Batch normalisation of frozen parts becomes :class:`FrozenBatchNorm2d`: its running mean and
    variance would otherwise go on moving although no parameter does.

    Args:
        model: changed in place.
        names: for example ``["cls_score"]`` or ``["box_predictor"]``.

    Returns:
        The model.

    Raises:
        ValueError: a name matches no parameter.
    """
    parameters = dict(model.named_parameters())
    for name in names:
        if not any(name in key.split(".") for key in parameters):
            raise ValueError(
                f"MODEL.DECOUPLED.TRAIN_ONLY names {name!r}, which is no part of any parameter's "
                f"name in this model. Names look like {next(reversed(parameters))!r}."
            )
    trained = [key for key in parameters if set(names) & set(key.split("."))]
    for key, parameter in parameters.items():
        parameter.requires_grad = key in trained
    model = _freeze_batch_norm(model, trained)
    logger.info(
        "Stage 2: training %s; %d other parameter tensors are frozen",
        ", ".join(trained),
        len(parameters) - len(trained),
    )
    return model


def _freeze_batch_norm(model: nn.Module, trained: list[str]) -> nn.Module:
    for name, child in model.named_children():
        inside = [key.removeprefix(f"{name}.") for key in trained if key.startswith(f"{name}.")]
        if inside:
            _freeze_batch_norm(child, inside)
        else:
            setattr(model, name, FrozenBatchNorm2d.convert_frozen_batchnorm(child))
    return model
