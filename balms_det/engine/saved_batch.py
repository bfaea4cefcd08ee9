"""A training batch in a file of tensors and plain values, and back: to look at it, or run it again.

Detectron2's structures are written as dicts with their name under ``kind``; what is neither one of
them nor a tensor, number or text is written as its ``repr``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks

from balms_det.engine.weights_files import load_tensors
from balms_det.files import atomic_path

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
