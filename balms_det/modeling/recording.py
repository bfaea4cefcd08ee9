"""Reading off what the box predictors see, for the meta step.

While recorded, a predictor computes no classification loss: no running state moves, and the meta
step gets features, logits and labels before any loss is applied to them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from balms_det.meta import RoIBatch
from balms_det.modeling.box_predictor import BoxPredictor


@dataclass
class RoIRecorder:
    """Where the predictors put what they see in a forward pass; a cascade's share the list.

    Attributes:
        batches: a batch a predictor.
        regress: whether they compute the box regression loss and the accuracy logs, and tell the
            loss more of the RoIs than their class (:class:`balms_det.losses.ContextLoss`).
    """

    batches: list[RoIBatch]
    regress: bool


@contextlib.contextmanager
def recorded(predictors: list[BoxPredictor], *, regress: bool = True) -> Iterator[list[RoIBatch]]:
    """Record one training forward pass of the detector; the list, a batch a predictor, fills as
    it runs. See :class:`RoIRecorder` for ``regress``."""
    batches: list[RoIBatch] = []
    for predictor in predictors:
        predictor.recorder = RoIRecorder(batches, regress)
    try:
        yield batches
    finally:
        for predictor in predictors:
            predictor.recorder = None


def record_silently(model: nn.Module, predictors: list[BoxPredictor], data: list) -> list[RoIBatch]:
    """Record a batch without gradients, and without a trace in the logs."""
    with torch.no_grad(), EventStorage(), recorded(predictors, regress=False) as batches:
        model(data)
    return batches
