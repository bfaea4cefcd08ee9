"""What a training step leaves behind, noted while it runs, for saying what went wrong in it.

Nothing is computed that the host would wait for: tensors are kept, and looked at when needed.

Detectron2's structures are written as dicts with their name under ``kind``; what is neither one of
them nor a tensor, number or text is written as its ``repr``.

"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.modeling.proposal_generator import rpn
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from torch import Tensor, nn

from balms_det.engine.weights_files import load_tensors
from balms_det.utils.files import atomic_path


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


_TENSOR_KINDS = {kind.__name__: kind for kind in (Boxes, BitMasks, Keypoints)}


def save_batch(path: str | Path, inputs: list[list[dict]], **facts: Any) -> None:
    """Write batches of dataset dicts, and facts about them, whole or not at all."""
    with atomic_path(path) as part:
        torch.save(_plain({"inputs": inputs, **facts}), part)


def load_batch(path: str | Path) -> dict[str, Any]:
    """What :func:`save_batch` wrote, on the CPU: ``model(load_batch(path)["inputs"][-1])`` runs it.

    Raises:
        UntrustedFileError, ValueError, FileNotFoundError: see
            :func:`balms_det.engine.weights_files.load_tensors`.
    """
    return _structured(load_tensors(path))


def _plain(value: Any) -> Any:
    if isinstance(value, Instances):
        fields = {name: _plain(item) for name, item in value.get_fields().items()}
        return {"kind": "Instances", "size": list(value.image_size), "fields": fields}
    if isinstance(value, PolygonMasks):
        return {"kind": "PolygonMasks", "polygons": _plain(value.polygons)}
    for name, kind in _TENSOR_KINDS.items():
        if isinstance(value, kind):
            return {"kind": name, "tensor": _plain(value.tensor)}
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {"kind": "array", "tensor": torch.from_numpy(value.copy())}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return repr(value)


def _structured(value: Any) -> Any:
    if isinstance(value, list):
        return [_structured(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if kind == "Instances":
        fields = {name: _structured(item) for name, item in value["fields"].items()}
        return Instances(tuple(value["size"]), **fields)
    if kind == "PolygonMasks":
        return PolygonMasks(_structured(value["polygons"]))
    if kind == "array":
        return value["tensor"].numpy()
    if kind in _TENSOR_KINDS:
        return _TENSOR_KINDS[kind](value["tensor"])
    return {key: _structured(item) for key, item in value.items()}
