"""Box AP of a classifier from a cache, without running the detector.

Symbols: see :mod:`balms_det.engine.feature_cache.rois`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances

from balms_det.engine.feature_cache.layout import EVAL, FeatureCacheError
from balms_det.engine.feature_cache.reader import FeatureCache
from balms_det.engine.feature_cache.rois import (
    Predictors,
    cached_rois,
    calibrated_scores,
    detections,
)
from balms_det.engine.feature_cache.settings import dataset_source
from balms_det.evaluation.box_ap import BoxTruth, box_ap, lvis_ground_truth
from balms_det.modeling.calibration import Calibration


class CachedEvaluation:
    """Evaluates classifiers on a cached validation set.

    Args:
        cache: for evaluation.

    Raises:
        FeatureCacheError: it is for training, or its dataset has changed since.
        KeyError: its dataset is not registered.
    """

    def __init__(self, cache: FeatureCache):
        cache.check_purpose(EVAL)
        self.cache = cache
        (source,) = cache.manifest.datasets
        if dataset_source(source.name) != source:
            raise FeatureCacheError(
                f"{cache.folder}: the annotations of {source.name!r} are not those that the cache "
                "was made of"
            )
        ids = set(cache.manifest.image_ids)
        dicts = [d for d in DatasetCatalog.get(source.name) if d["image_id"] in ids]
        groups = cache.manifest.class_stats().frequency_groups()
        self.ground_truth = BoxTruth(lvis_ground_truth(source.name, dicts, groups))

    @torch.no_grad()
    def box_ap(
        self, predictors: Predictors, calibrations: Sequence[Calibration] | None = None
    ) -> dict[str, float]:
        """AP, APr, APc and APf of boxes in percent, NaN where undefined.

        Args:
            predictors: the detector's box predictors, one a stage, with the classifiers to judge.
            calibrations: one a predictor; None for plain scores.
        """
        results = []
        for image_id, found in self.detections(predictors, calibrations):
            columns = (found.pred_boxes.tensor, found.scores, found.pred_classes)
            results.append((image_id, *(values.cpu().numpy() for values in columns)))
        return box_ap(self.ground_truth, results)

    @torch.no_grad()
    def detections(
        self, predictors: Predictors, calibrations: Sequence[Calibration] | None = None
    ) -> Iterator[tuple[int | str, Instances]]:
        """Every image's id and detections, in the dataset's pixels; see :meth:`box_ap`."""
        for rois in cached_rois(self.cache, predictors):
            scores = calibrated_scores(rois, predictors, calibrations)
            yield rois.image_id, detections(rois, scores, predictors[-1])
