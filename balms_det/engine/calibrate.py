"""From a trained model to a calibrated one: search, choose, leave files."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from balms_det.data.class_stats import build_class_stats
from balms_det.engine.calibration_files import (
    check_takes_calibration,
    write_checkpoint,
    write_config,
    write_scan,
    write_statistics,
)
from balms_det.engine.calibration_search import StrengthSearch, Trial, best_trial
from balms_det.engine.trainer import load_weights
from balms_det.evaluation.strength_curves import draw_strength_curves
from balms_det.modeling.calibration import CALIBRATION_REGISTRY, calibration_class

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchOptions:
    """What is tried, on what, and what counts.

    Attributes:
        names: calibrations; empty for that of the config, or all if it names none.
        strengths: empty for those that each calibration lists.
        dataset: registered name; empty for the first of ``DATASETS.TRAIN``.
        num_images: how many of its images; 0 for all.
        metric: "AP", "APr", "APc" or "APf" of boxes.
    """

    names: Sequence[str] = ()
    strengths: Sequence[float] = ()
    dataset: str = ""
    num_images: int = 500
    metric: str = "AP"


def calibrate(
    cfg: CfgNode,
    out: Path,
    options: SearchOptions,
    *,
    config_file: str = "",
    opts: Sequence[str] = (),
    bake: bool = False,
) -> Trial:
    """Choose a calibration for the model of ``cfg`` and write it down.

    Args:
        cfg: config of the trained model. ``CALIBRATION.ARGS`` are the fixed arguments of the
            calibration that it names.
        out: folder of ``scan.json``, ``strength.png``, ``statistics.json``, ``calibrated.yaml``
            and, to bake, ``calibrated.pth``.
        options: see :class:`SearchOptions`.
        config_file, opts: what ``cfg`` was loaded from; ``calibrated.yaml`` is its child.
        bake: write the calibration into the weights; the config then only names these.

    Returns:
        The chosen trial.

    Raises:
        ValueError: an unknown calibration, a model that cannot be calibrated, no weights, or (to
            bake) a calibration that is no affine map of the logits.
        TypeError: a wrong argument of a calibration.
        KeyError, FileNotFoundError: no such dataset or weights.
    """
    out = Path(out)
    node = cfg.MODEL.ROI_BOX_HEAD.CALIBRATION
    fixed = {node.NAME: {key.lower(): value for key, value in node.ARGS.items()}}
    own = [node.NAME] if node.NAME else sorted(name for name, _ in CALIBRATION_REGISTRY)
    names = list(options.names) or own
    for name in names:
        calibration_class(name)
    model = _plain_model(cfg)
    check_takes_calibration(model, bake)
    dataset = options.dataset or cfg.DATASETS.TRAIN[0]
    with tempfile.TemporaryDirectory(prefix="balms_det-rois-") as folder:
        search = StrengthSearch(
            cfg,
            model,
            build_class_stats(cfg),
            dataset,
            num_images=options.num_images,
            folder=Path(folder),
        )
        tables = search.statistics(names)
        if tables:
            write_statistics(out / "statistics.json", tables)
        trials = [search.plain()]
        for name in names:
            arguments = dict(fixed.get(name, {}))
            if calibration_class(name).needs_statistics:
                arguments.setdefault("statistics", str(out / "statistics.json"))
            trials += search.scan(name, options.strengths, **arguments)
    chosen = best_trial(trials, options.metric)
    write_scan(out / "scan.json", trials, chosen)
    _draw(trials, chosen, out / "strength.png", f"{len(search.cache)} images of {dataset}")
    options_of_model = list(opts)
    if bake:
        write_checkpoint(out / "calibrated.pth", model, search, chosen)
        options_of_model += ["MODEL.WEIGHTS", str(out / "calibrated.pth")]
    heads = cfg.MODEL.ROI_HEADS.NAME
    write_config(out / "calibrated.yaml", config_file, options_of_model, heads, chosen, baked=bake)
    logger.info("Chosen: %s at strength %g", chosen.name, chosen.strength)
    return chosen


def _plain_model(cfg: CfgNode) -> nn.Module:
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("MODEL.WEIGHTS is empty: name the checkpoint of the trained model")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME = ""
    model = build_model(cfg).eval()
    load_weights(cfg, model)
    return model


def _draw(trials: Sequence[Trial], chosen: Trial, path: Path, where: str) -> None:
    plain, *others = trials
    curves: dict[str, list] = {}
    for trial in others:
        curve = curves.setdefault(trial.name, [(0.0, plain.metrics)])
        curve.append((trial.strength, trial.metrics))
    if curves:
        title = f"Box AP against the strength of calibration, {where}"
        draw_strength_curves(curves, path, title=title, chosen=(chosen.name, chosen.strength))
