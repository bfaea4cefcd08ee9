"""The files that a choice of calibration leaves: table, curves, config, checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from balms_det.engine.calibration_search import PLAIN, StrengthSearch, Trial
from balms_det.engine.child_config import as_yaml, child_content, set_key
from balms_det.engine.partial_state import copy_into
from balms_det.files import atomic_path, write_atomically
from balms_det.modeling.calibration import CalibrationMixin

# Detectron2's own heads do not read the calibration from a config; these are the same and do.
READS_CONFIG = {
    "StandardROIHeads": "CalibratedROIHeads",
    "CascadeROIHeads": "CalibratedCascadeROIHeads",
}
_NODE = "MODEL.ROI_BOX_HEAD.CALIBRATION"


def write_scan(path: Path, trials: Sequence[Trial], chosen: Trial) -> None:
    """All trials and the chosen one as json; undefined metrics are null."""
    content = {"chosen": _plain(chosen), "trials": [_plain(trial) for trial in trials]}
    write_atomically(path, json.dumps(content, indent=1))


def _plain(trial: Trial) -> dict[str, Any]:
    metrics = {k: None if math.isnan(v) else v for k, v in trial.metrics.items()}
    return {**vars(trial), "metrics": metrics}


def write_config(
    path: Path,
    config_file: str,
    opts: Sequence[str],
    heads: str,
    chosen: Trial,
    *,
    baked: bool,
) -> None:
    """A child config of ``config_file`` with the command line's options and the calibration.

    Args:
        path: YAML to write.
        config_file: the model's config; may be empty.
        opts: ``KEY VALUE`` pairs that it was loaded with.
        heads: ``MODEL.ROI_HEADS.NAME``.
        chosen: the calibration.
        baked: the weights hold it already, so the config must not ask for it again.
    """
    pairs = [pair for pair in zip(opts[::2], opts[1::2]) if not pair[0].startswith(_NODE)]
    content = child_content(path, config_file, [word for pair in pairs for word in pair])
    if chosen.name != PLAIN and not baked:
        if heads in READS_CONFIG:
            set_key(content, "MODEL.ROI_HEADS.NAME", READS_CONFIG[heads])
        set_key(content, f"{_NODE}.NAME", chosen.name)
        arguments = {key.upper(): value for key, value in chosen.arguments.items()}
        set_key(content, f"{_NODE}.ARGS", arguments)
    else:
        set_key(content, f"{_NODE}.NAME", "")  # the base may name one
    where = ", ".join(f"{k} {v:.2f}" for k, v in chosen.metrics.items() if not math.isnan(v))
    head = f"Written by tools/calibrate.py: {chosen.name} at strength {chosen.strength:g}, box "
    write_atomically(path, as_yaml(content, head + where))


def write_checkpoint(
    path: Path, model: nn.Module, search: StrengthSearch, chosen: Trial
) -> dict[str, Tensor]:
    """The model's weights with the calibration written into its classifiers.

    The model itself is left as it was. Detectron2 loads the file without balms_det.

    Returns:
        The state dict that was written.

    Raises:
        ValueError: the calibration cannot be written into the weights.
    """
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    names = {id(module): name for name, module in model.named_modules()}
    for predictor, calibration in zip(search.predictors, search.build(chosen) or ()):
        classifier = predictor.cls_score
        prefix = names[id(classifier)]
        kept = {key: value.clone() for key, value in classifier.state_dict().items()}
        calibration.bake(classifier)
        baked = {
            f"{prefix}.{k}": v.detach().cpu().clone() for k, v in classifier.named_parameters()
        }
        copy_into(classifier, kept)
        state.update(baked)
    with atomic_path(path) as part:
        torch.save({"model": state, "__author__": "balms_det"}, part)
    return state


def check_takes_calibration(model: nn.Module, bake: bool) -> None:
    """Raise ValueError if the model's ROI heads would not read the config that is to be written."""
    heads = type(model.roi_heads)
    if not (bake or issubclass(heads, CalibrationMixin) or heads.__name__ in READS_CONFIG):
        raise ValueError(
            f"{heads.__name__} does not read MODEL.ROI_BOX_HEAD.CALIBRATION. Bake the calibration "
            "into the weights (--bake), or put CalibrationMixin before the class's own bases"
        )


def write_statistics(path: Path, tables: Mapping[str, Any]) -> None:
    """The tables that calibrations read."""
    write_atomically(path, json.dumps(tables))
