"""Statistics that some calibrations need and that a pass over the training data makes.

A json file: an object whose values are lists of numbers, one a class,

    {"fractal_dimension": [1.2, ...]}                             for FRACAL
    {"logit_mean": [...], "logit_var": [...]}                     for LogitNormalization
    {"stages": [{"logit_mean": ...}, {...}, {...}]}               in a cascade, one a stage

``tools/calibrate.py`` writes it, with the names of the classes as ``classes``: weights of other
classes, or in another order, are then not loaded with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from balms_det.modeling.calibration.base import Head
from balms_det.utils.local import local_path


def read_tables(
    name: str, source: str | Mapping[str, Any], keys: Sequence[str], head: Head
) -> list[Tensor]:
    """The named tables, (K,) float64 each; a last number for background is left out.

    Args:
        name: the calibration, for messages.
        source: path of a json file, or its content.
        keys: names of the tables.
        head: what is calibrated; its stage chooses among ``stages``.

    Raises:
        FileNotFoundError: there is no such file, or no file is named.
        ValueError: the file is not such a json, or a table is missing or of another length.
    """
    where = "statistics" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else _read(name, where)
    if "stages" in content:
        stages = content["stages"]
        if not isinstance(stages, (list, tuple)) or not all(isinstance(s, Mapping) for s in stages):
            raise ValueError(f"{where}: 'stages' must be a list of tables, one a stage")
        if head.stage >= len(stages):
            raise ValueError(
                f"{where} has statistics of {len(stages)} stages; the model has stage {head.stage}"
            )
        content = {**content, **stages[head.stage]}
    return [_table(where, content, key, head.num_classes) for key in keys]


def _read(name: str, path: str) -> Mapping[str, Any]:
    found = Path(local_path(path))
    if not found.is_file():
        shown = f"there is no file {path!r}" if path else "none are named"
        raise FileNotFoundError(
            f"{name} needs statistics of the training data, and {shown}. Set CALIBRATION.ARGS."
            "STATISTICS to the statistics.json that tools/calibrate.py writes"
        )
    try:
        content = json.loads(found.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a json file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object of tables, got a {type(content).__name__}")
    return content


def _table(where: str, content: Mapping[str, Any], key: str, num_classes: int) -> Tensor:
    if key not in content:
        raise ValueError(f"{where} has no table {key!r}; it has: {', '.join(sorted(content))}")
    try:
        table = torch.as_tensor(content[key], dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {key!r} must be a list of numbers: {error}") from error
    if table.dim() != 1 or len(table) not in (num_classes, num_classes + 1):
        raise ValueError(
            f"{where}: {key!r} has shape {tuple(table.shape)}, but the model has {num_classes} "
            "classes. Make the statistics with this model's own config"
        )
    if not table.isfinite().all():
        raise ValueError(f"{where}: {key!r} holds numbers that are not finite")
    return table[:num_classes]
