"""From a trained model to a calibrated one: search, choose, leave files."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from balms_det.data.class_stats import ClassStats, build_class_stats, check_registered
from balms_det.engine.checkpoint import load_trained_weights
from balms_det.engine.config import as_yaml, child_content, set_key
from balms_det.engine.identity import model_identity
from balms_det.engine.partial_state import copy_into
from balms_det.engine.weights_files import IDENTITY
from balms_det.engine.written_model import check_written
from balms_det.evaluation.tables import draw_strength_curves
from balms_det.features import FeatureCache
from balms_det.modeling.calibration import CALIBRATION_REGISTRY, CalibrationMixin, calibration_class
from balms_det.utils.files import atomic_path, write_atomically
from balms_det.workflows.strength_search import (
    PLAIN,
    StrengthSearch,
    Trial,
    best_trial,
    record_regions,
)

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
        cache: a feature cache of the model for evaluation (tools/cache_features.py); its images are
            then used, and the detector does not run. Empty for none.

    Raises:
        ValueError: images are chosen, and a cache that has its own.
    """

    names: Sequence[str] = ()
    strengths: Sequence[float] = ()
    dataset: str = ""
    num_images: int = 500
    metric: str = "AP"
    cache: str = ""

    def __post_init__(self) -> None:
        if self.cache and self.dataset:
            raise ValueError("a cache has its own images: name either a cache or a dataset")


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
        cfg: of the trained model; its ``CALIBRATION.ARGS`` are fixed arguments of its calibration.
        out: folder of ``scan.json``, ``strength.png``, ``statistics.json``, ``calibrated.yaml``.
        options: what to try.
        config_file, opts: what ``cfg`` was loaded from; ``calibrated.yaml`` is its child.
        bake: write ``calibrated.pth`` with the calibration in its weights; the config names it.

    Raises:
        ValueError: an unknown calibration, a model that cannot be calibrated, no weights, or (to
            bake) a calibration that is no affine map of the logits.
        TypeError: a wrong argument of a calibration.
        KeyError, FileNotFoundError: no such dataset or weights.
    """
    out = Path(out)
    names = _names(options.names, cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME)
    model = _plain_model(cfg)
    check_takes_calibration(model, bake)
    with tempfile.TemporaryDirectory(prefix="balms_det-rois-") as folder:
        counts = build_class_stats(cfg)
        cache = _cache(cfg, model, counts, options, Path(folder))
        search = StrengthSearch(cfg, model, counts, cache)
        trials = _try_all(search, names, options.strengths, out)
    chosen = best_trial(trials, options.metric)
    write_scan(out / "scan.json", trials, chosen)
    _draw(trials, chosen, out / "strength.png", _where(cache))
    opts, state = list(opts), model.state_dict()
    if bake:
        state = write_checkpoint(out / "calibrated.pth", model, search, chosen)
        opts += ["MODEL.WEIGHTS", str(out / "calibrated.pth")]
    heads = cfg.MODEL.ROI_HEADS.NAME
    write_config(out / "calibrated.yaml", config_file, opts, heads, chosen, baked=bake)
    if config_file:  # else the config is no whole one
        check_written(out / "calibrated.yaml", state)
    logger.info("Chosen: %s at strength %g", chosen.name, chosen.strength)
    return chosen


def _cache(
    cfg: CfgNode, model: nn.Module, counts: ClassStats, options: SearchOptions, folder: Path
) -> FeatureCache:
    if options.cache:
        return FeatureCache.open(options.cache)
    dataset = _dataset(cfg, options.dataset)
    return record_regions(cfg, model, counts, dataset, num_images=options.num_images, folder=folder)


def _dataset(cfg: CfgNode, asked: str) -> str:
    if not asked and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name the dataset to calibrate on (--dataset).")
    dataset = asked or cfg.DATASETS.TRAIN[0]
    check_registered(dataset)
    return dataset


def _where(cache: FeatureCache) -> str:
    (source,) = cache.manifest.datasets
    return f"{cache.manifest.num_images} images of {source.name}"


def _try_all(
    search: StrengthSearch, names: Sequence[str], strengths: Sequence[float], out: Path
) -> list[Trial]:
    """The plain model, then every calibration at every strength; their statistics go to ``out``."""
    path = out / "statistics.json"
    tables = search.statistics(names)
    if tables:
        write_statistics(path, tables)
    node = search.cfg.MODEL.ROI_BOX_HEAD.CALIBRATION
    trials = [search.plain()]
    for name in names:
        fixed = node.ARGS.items() if name == node.NAME else ()
        arguments = {key.lower(): value for key, value in fixed}
        if calibration_class(name).needs_statistics:
            arguments.setdefault("statistics", str(path))
        trials += search.scan(name, strengths, **arguments)
    return trials


def _names(asked: Sequence[str], in_config: str) -> list[str]:
    """The calibrations to try."""
    if asked and in_config and list(asked) != [in_config]:
        # Its ARGS would be inherited by the config that is written.
        raise ValueError(
            f"the config names the calibration {in_config!r} already: take it out of there to try "
            f"{', '.join(asked)}"
        )
    names = list(asked) or ([in_config] if in_config else [])
    names = names or sorted(name for name, _ in CALIBRATION_REGISTRY)
    for name in names:
        calibration_class(name)  # an unknown name is noticed before the detector runs
    return names


def _plain_model(cfg: CfgNode) -> nn.Module:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME = ""
    model = build_model(cfg).eval()
    load_trained_weights(cfg, model)
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
        identity = model_identity(search.cfg, model).plain()
        torch.save({"model": state, "__author__": "balms_det", IDENTITY: identity}, part)
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
