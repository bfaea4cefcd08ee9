"""Putting :func:`balms_det.modeling.fast_rcnn_inference` where Detectron2 calls its own.

Detectron2's predictors and cascade call a function of their module, ``fast_rcnn_inference``. To
have them call ours we neither copy their methods nor change their module, which would reach into
everybody else's models: we make a twin of a method, with the same code, that finds ours under that
name.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType

from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, fast_rcnn
from torch import nn

from balms_det.modeling.fast_inference import fast_rcnn_inference

NAME = "fast_rcnn_inference"


def calls_slow_inference(function: Callable) -> bool:
    """Whether a function itself calls Detectron2's ``fast_rcnn_inference`` by that name."""
    return (
        isinstance(function, FunctionType)
        and NAME in function.__code__.co_names
        and function.__globals__.get(NAME) is fast_rcnn.fast_rcnn_inference
    )


def with_fast_inference(function: Callable) -> Callable:
    """A twin of a function of Detectron2 that calls our ``fast_rcnn_inference``.

    Raises:
        ValueError: the function does not call Detectron2's.
    """
    if not calls_slow_inference(function):
        raise ValueError(
            f"{function.__module__}.{function.__qualname__} does not call Detectron2's {NAME}: "
            "there is nothing to make faster. Call balms_det.modeling.fast_rcnn_inference in it"
        )
    twin = FunctionType(
        function.__code__,
        {**function.__globals__, NAME: fast_rcnn_inference},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__qualname__ = function.__qualname__
    twin.__module__ = function.__module__
    twin.__doc__ = function.__doc__
    return twin


def use_fast_inference(model: nn.Module) -> int:
    """Make any Detectron2 R-CNN post-process its boxes the fast way, with the same detections.

    Changes this model alone: box predictors (``FastRCNNOutputLayers`` and its subclasses) and
    cascade heads.

    Returns:
        The number of modules changed: 0 when the model has none that call Detectron2's function,
        for instance because it is one of ours or was changed before.
    """
    methods = {FastRCNNOutputLayers: "inference", CascadeROIHeads: "_forward_box"}
    changed = 0
    for module in model.modules():
        for kind, name in methods.items():
            if not isinstance(module, kind) or name in vars(module):
                continue
            method = getattr(type(module), name)
            if calls_slow_inference(method):
                setattr(module, name, MethodType(with_fast_inference(method), module))
                changed += 1
    return changed
