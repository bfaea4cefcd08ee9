"""What a training step leaves behind, noted while it runs, for saying what went wrong in it.

Nothing is computed that the host would wait for: tensors are kept, and looked at when needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from detectron2.modeling.proposal_generator import rpn
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from torch import Tensor, nn


class BrokenForwardError(FloatingPointError):
    """The forward pass itself refused NaN or infinity."""


@dataclass(frozen=True)
class HeadOutput:
    """Logits (R, L) of a box predictor and the labels (R,) of its RoIs."""

    predictor: FastRCNNOutputLayers
    logits: Tensor
    gt_classes: Tensor


@dataclass
class StepWatch:
    """A step's traces.

    Attributes:
        inputs: what the detector was called with, in order: batches of dataset dicts.
        heads: a box predictor's output each time that its loss was computed.
        sound_proposals: whether an RPN's boxes and scores were finite, a bool tensor a call.
    """

    inputs: list[list[dict]] = field(default_factory=list)
    heads: list[HeadOutput] = field(default_factory=list)
    sound_proposals: list[Tensor] = field(default_factory=list)


@contextlib.contextmanager
def watch_step(
    detector: nn.Module, predictors: Sequence[FastRCNNOutputLayers]
) -> Iterator[StepWatch]:
    """Note what the detector does until the end of the block.

    Args:
        detector: a ``GeneralizedRCNN`` or a model called like one; without DDP around it.
        predictors: its box predictors.
    """
    seen = StepWatch()
    # Attributes of the instance hide the methods until they are deleted again.
    detector.forward = partial(_forward, seen, detector.forward)
    for predictor in predictors:
        predictor.losses = partial(_losses, seen, predictor, predictor.losses)
    select = rpn.find_top_rpn_proposals
    rpn.find_top_rpn_proposals = partial(_proposals, seen, select)
    try:
        yield seen
    finally:
        rpn.find_top_rpn_proposals = select
        del detector.forward
        for predictor in predictors:
            del predictor.losses


def _forward(seen: StepWatch, forward, inputs: list[dict], *args: Any) -> Any:
    seen.inputs.append(inputs)
    try:
        return forward(inputs, *args)
    except FloatingPointError as error:
        raise BrokenForwardError(str(error)) from error
    except AssertionError as error:
        if "NaN" not in str(error):  # as Boxes says it, which a cascade makes of its predictions
            raise
        raise BrokenForwardError(str(error)) from error


def _losses(
    seen: StepWatch,
    predictor: FastRCNNOutputLayers,
    losses,
    predictions: tuple[Tensor, Tensor],
    proposals: list,
) -> dict[str, Tensor]:
    logits = predictions[0].detach()
    labels = [p.gt_classes for p in proposals] or [logits.new_empty(0, dtype=torch.long)]
    seen.heads.append(HeadOutput(predictor, logits, torch.cat(labels)))
    return losses(predictions, proposals)


def _proposals(seen: StepWatch, select, proposals: list[Tensor], scores: list[Tensor], *args: Any):
    """Detectron2's selection, which in training raises an error on the rank that has NaN.

    The others would wait for that rank for good. As in inference it leaves NaN out here, and the
    step ends on all ranks, which are told of it together.
    """
    finite = [torch.isfinite(level).all() for level in (*proposals, *scores)]
    seen.sound_proposals.append(torch.stack(finite).all())
    *others, _ = args
    return select(proposals, scores, *others, False)
