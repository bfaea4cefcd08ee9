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

from balms_det.data.class_stats import ClassStats, build_class_stats
from balms_det.data.count_sources import check_registered
from balms_det.engine.calibration_files import (
    check_takes_calibration,
    write_checkpoint,
    write_config,
    write_scan,
    write_statistics,
)
from balms_det.engine.calibration_search import (
    StrengthSearch,
    Trial,
    best_trial,
    record_regions,
)
from balms_det.engine.feature_cache import FeatureCache
from balms_det.engine.trainer import load_trained_weights
from balms_det.engine.written_model import check_written
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
