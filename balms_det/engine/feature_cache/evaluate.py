"""Box AP of a classifier from a cache, without running the detector.

Symbols: see :mod:`balms_det.engine.roi_cache`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import Tensor

from balms_det.engine.feature_cache.layout import (
    EVAL,
    FEATURES,
    LAST_BOXES,
    OFFSETS,
    PROPOSALS,
    SIZES,
    FeatureCacheError,
    column,
)
from balms_det.engine.feature_cache.reader import FeatureCache
from balms_det.engine.feature_cache.settings import dataset_source
from balms_det.engine.roi_cache import RoIs, calibrated_scores, detections
from balms_det.evaluation.box_ap import BoxTruth, box_ap, lvis_ground_truth
from balms_det.modeling.calibration import Calibration

Predictors = Sequence[FastRCNNOutputLayers]


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
        dicts = list(DatasetCatalog.get(source.name))[: cache.manifest.num_images]
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


@torch.no_grad()
def cached_rois(cache: FeatureCache, predictors: Predictors) -> Iterator[RoIs]:
    """The regions of every image, with the logits that these classifiers give them.

    Raises:
        FeatureCacheError: the cache is for training, or of another number of stages or classes.
    """
    cache.check_purpose(EVAL)
    cache.check_classes(predictors[0].num_classes)
    if len(predictors) != cache.manifest.num_stages:
        raise FeatureCacheError(
            f"{cache.folder}: the cache has {cache.manifest.num_stages} stages, the model "
            f"{len(predictors)}"
        )
    for entry, columns in cache.shards():
        offsets = columns[OFFSETS].tolist()
        for i, image in enumerate(range(entry.start, entry.stop)):
            rows = slice(offsets[i], offsets[i + 1])
            size, input_size = columns[SIZES][i].view(2, 2).tolist()
            image_id = cache.manifest.image_ids[image]
            logits, boxes = _read(columns, rows, tuple(input_size), predictors)
            yield RoIs(image_id, tuple(size), tuple(input_size), logits, boxes)


def _read(
    columns: dict[str, Tensor], rows: slice, input_size: tuple[int, int], predictors: Predictors
) -> tuple[list[Tensor], Tensor]:
    """Logits by stage and last boxes of one image."""
    device = predictors[-1].bbox_pred.weight.device
    read = [columns[column(s, FEATURES)][rows].to(device).float() for s in range(len(predictors))]
    logits = [predictor.cls_score(features) for predictor, features in zip(predictors, read)]
    if LAST_BOXES in columns:
        return logits, columns[LAST_BOXES][rows].to(device)
    proposals = Instances(input_size)
    proposals.proposal_boxes = Boxes(columns[PROPOSALS][rows].to(device))
    last = predictors[-1]
    (boxes,) = last.predict_boxes((logits[-1], last.bbox_pred(read[-1])), [proposals])
    return logits, boxes
