"""Choosing a calibration and its strength on data, from one pass of the detector.

The detector runs once over the images and its regions are kept, as a feature cache
(:mod:`balms_det.features`); every strength of every calibration is then tried on the
same regions, through exact post-processing and LVIS evaluation of boxes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import nn

from balms_det.data.class_stats import ClassStats
from balms_det.engine.identity import CLASSES, config_classes
from balms_det.evaluation.box_ap import METRICS, box_ap
from balms_det.features import CacheOptions, FeatureCache, cache_features
from balms_det.features.evaluate import CachedEvaluation, cached_rois, calibrated_scores, detections
from balms_det.features.manifest import EVAL
from balms_det.modeling.calibration import (
    Calibration,
    LogitStatistics,
    box_predictors,
    build_calibration,
    calibration_class,
    head_of,
)
from balms_det.modeling.calibration.fractal import dataset_fractal_dimensions

logger = logging.getLogger(__name__)

PLAIN = "none"


@dataclass(frozen=True)
class Trial:
    """One calibration at one strength, and what it gives on the data.

    Attributes:
        name: the calibration, or "none".
        strength: 0 for none.
        arguments: its keyword arguments.
        metrics: AP, APr, APc and APf of boxes, in percent (NaN: undefined).
    """

    name: str
    strength: float
    arguments: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def choose_images(
    dataset_dicts: Sequence[dict], groups: Sequence[str], num_images: int, seed: int = 0
) -> list[dict]:
    """At most ``num_images`` dataset dicts, in their order: first those that hold a rare class, as
    there are few, then random others. 0 is for all.
    """
    if not 0 < num_images < len(dataset_dicts):
        return list(dataset_dicts)
    order = np.random.default_rng(seed).permutation(len(dataset_dicts))
    common = [not _holds_rare(dataset_dicts[i], groups) for i in order]
    chosen = order[np.argsort(common, kind="stable")][:num_images]
    return [dataset_dicts[i] for i in sorted(chosen)]


def _holds_rare(record: dict, groups: Sequence[str]) -> bool:
    return any(groups[a["category_id"]] == "r" for a in record.get("annotations", ()))


def record_regions(
    cfg: CfgNode,
    model: nn.Module,
    class_stats: ClassStats,
    dataset_name: str,
    *,
    num_images: int,
    folder: Path,
) -> FeatureCache:
    """Run a detector over a dataset and keep its regions, exactly as they are.

    Args:
        cfg: the model's config; its test settings are used.
        model: weights loaded.
        class_stats: of the model's training set.
        dataset_name: a registered dataset of the model's classes.
        num_images: how many of its images (see :func:`choose_images`).
        folder: where they are kept.
    """
    groups = class_stats.frequency_groups()
    dicts = choose_images(DatasetCatalog.get(dataset_name), groups, num_images)
    logger.info("Recording the regions of %d images of '%s'", len(dicts), dataset_name)
    options = CacheOptions(purpose=EVAL, dataset=dataset_name, dtype="float32")
    cache_features(cfg, folder, options, records=dicts, model=model)
    return FeatureCache.open(folder, verify=False)


class StrengthSearch:
    """Tries calibrations of one model on the regions of a cache.

    Args:
        cfg: the model's config.
        model: weights loaded, not calibrated.
        class_stats: of the model's training set.
        cache: of its regions.

    Raises:
        FeatureCacheError: the cache is of something else.
    """

    def __init__(
        self, cfg: CfgNode, model: nn.Module, class_stats: ClassStats, cache: FeatureCache
    ):
        self.cfg, self.class_stats, self.cache = cfg, class_stats, cache
        cache.check_matches(cfg)
        self.predictors = box_predictors(model)
        self.heads = [head_of(predictor, i) for i, predictor in enumerate(self.predictors)]
        self.ground_truth = CachedEvaluation(cache).ground_truth

    def statistics(self, names: Sequence[str]) -> dict[str, Any]:
        """The tables that these calibrations need (``modeling/calibration/statistics.py``): fractal
        dimensions of ``DATASETS.TRAIN``, mean and variance of the recorded logits."""
        needed = {key for name in names for key in calibration_class(name).needs_statistics}
        tables: dict[str, Any] = {}
        if "fractal_dimension" in needed:
            train, classes = list(self.cfg.DATASETS.TRAIN), self.heads[0].num_classes
            tables["fractal_dimension"] = dataset_fractal_dimensions(train, classes).tolist()
        if "logit_mean" in needed:
            stages = self._logit_statistics()
            tables.update(stages[0] if len(stages) == 1 else {"stages": stages})
        names = config_classes(self.cfg).names
        return {CLASSES: list(names), **tables} if tables and names else tables

    def _logit_statistics(self) -> list[dict[str, list[float]]]:
        stages = [
            LogitStatistics(predictor.cls_score.out_features)
            .to(predictor.bbox_pred.weight)
            .double()
            for predictor in self.predictors
        ]
        for rois in cached_rois(self.cache, self.predictors):
            for stage, logits in zip(stages, rois.logits):
                if len(logits):
                    stage(logits.double())
        return [stage.tables() for stage in stages]

    def plain(self) -> Trial:
        """The model as it is."""
        return self._evaluate([Trial(PLAIN, 0.0)])[0]

    def scan(self, name: str, strengths: Sequence[float] = (), **fixed: Any) -> list[Trial]:
        """One calibration at several strengths, by default those that its class lists.

        ``fixed`` are its other keyword arguments.
        """
        kind = calibration_class(name)
        tried = [s for s in (strengths or kind.strengths) if s != 0]
        trials = [Trial(name, s, {**fixed, **kind.arguments_for(s)}) for s in tried]
        return self._evaluate(trials)

    def build(self, trial: Trial) -> list[Calibration] | None:
        """The calibrations of a trial, one a stage; None for none."""
        if trial.name == PLAIN:
            return None
        device = self.predictors[0].bbox_pred.weight.device
        stats, arguments = self.class_stats, trial.arguments
        built = [build_calibration(trial.name, head, stats, **arguments) for head in self.heads]
        return [calibration.to(device) for calibration in built]

    @torch.no_grad()
    def _evaluate(self, trials: list[Trial]) -> list[Trial]:
        calibrations = [self.build(trial) for trial in trials]
        results: list[list[tuple]] = [[] for _ in trials]
        for rois in cached_rois(self.cache, self.predictors):
            for calibration, own in zip(calibrations, results):
                scores = calibrated_scores(rois, self.predictors, calibration)
                found = detections(rois, scores, self.predictors[-1])
                columns = (found.pred_boxes.tensor, found.scores, found.pred_classes)
                own.append((rois.image_id, *(column.cpu().numpy() for column in columns)))
        evaluated = []
        for trial, own in zip(trials, results):
            metrics = box_ap(self.ground_truth, own)
            evaluated.append(Trial(trial.name, trial.strength, trial.arguments, metrics))
            shown = "  ".join(f"{metric} {metrics[metric]:.2f}" for metric in METRICS)
            logger.info("%s at strength %g: box %s", trial.name, trial.strength, shown)
        return evaluated


def best_trial(trials: Sequence[Trial], metric: str = "AP") -> Trial:
    """The trial with the highest metric; of equals the weakest, so none if nothing helps.

    Raises:
        ValueError: the metric is undefined everywhere.
    """
    defined = [trial for trial in trials if not math.isnan(trial.metrics[metric])]
    if not defined:
        raise ValueError(f"{metric} is undefined on these images: give more images, or another one")
    return max(defined, key=lambda trial: (trial.metrics[metric], -abs(trial.strength)))
