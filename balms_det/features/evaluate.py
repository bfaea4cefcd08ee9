"""Box AP of a classifier from a cache, without running the detector.

Symbols: see :mod:`balms_det.features.evaluate`.

Symbols: ``R`` RoIs of an image, ``L`` logits, ``S`` box heads (1, or the stages of a cascade).

"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import Tensor

from balms_det.data.class_stats import dataset_classes
from balms_det.evaluation.box_ap import BoxTruth, box_ap
from balms_det.features.manifest import (
    EVAL,
    FEATURES,
    LAST_BOXES,
    OFFSETS,
    PROPOSALS,
    SIZES,
    FeatureCacheError,
    column,
)
from balms_det.features.options import dataset_source
from balms_det.features.read import FeatureCache
from balms_det.modeling.calibration import Calibration
from balms_det.modeling.fast_inference import fast_rcnn_inference


class CachedEvaluation:
    """Evaluates classifiers on a cached validation set.

    Args:
        cache: for evaluation.

    Raises:
        FeatureCacheError: it is for training, or its dataset has changed since, or has the classes
            in another order than the cache.
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
        classes = dataset_classes(source.name)
        cache.check_classes(classes.size, classes.names, classes.source)
        groups = cache.manifest.class_stats().frequency_groups()
        self.ground_truth = BoxTruth.of_dataset(source.name, cache.manifest.image_ids, groups)

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


Predictors = Sequence[FastRCNNOutputLayers]


@dataclass(frozen=True)
class RoIs:
    """The regions of one image.

    Attributes:
        image_id: id in the dataset.
        size: (height, width) of the image in the dataset.
        input_size: (height, width) of what the network saw; ``boxes`` are in these pixels.
        logits: S tensors (R, L).
        boxes: (R, 4), or (R, 4 K) where boxes depend on the class.
    """

    image_id: int | str
    size: tuple[int, int]
    input_size: tuple[int, int]
    logits: list[Tensor]
    boxes: Tensor


@torch.no_grad()
def cached_rois(cache: FeatureCache, predictors: Predictors) -> Iterator[RoIs]:
    """The regions of every image, with the logits that these classifiers give them.

    Raises:
        FeatureCacheError: the cache is for training, or of another kind of head.
    """
    _check(cache, predictors)
    for entry, columns in cache.shards():
        offsets = columns[OFFSETS].tolist()
        for i, image in enumerate(range(entry.start, entry.stop)):
            rows = slice(offsets[i], offsets[i + 1])
            size, input_size = columns[SIZES][i].view(2, 2).tolist()
            image_id = cache.manifest.image_ids[image]
            logits, boxes = _read(columns, rows, tuple(input_size), predictors)
            yield RoIs(image_id, tuple(size), tuple(input_size), logits, boxes)


def _check(cache: FeatureCache, predictors: Predictors) -> None:
    cache.check_purpose(EVAL)
    cache.check_classes(predictors[0].num_classes)
    width = predictors[0].bbox_pred.in_features
    for what, own, wanted in (
        ("stages", cache.manifest.num_stages, len(predictors)),
        ("numbers a feature", cache.manifest.feature_dim, width),
    ):
        if own != wanted:
            raise FeatureCacheError(
                f"{cache.folder}: the cache has {own} {what}, the model {wanted}"
            )


def _read(
    columns: dict[str, Tensor], rows: slice, input_size: tuple[int, int], predictors: Predictors
) -> tuple[list[Tensor], Tensor]:
    """Logits by stage and last boxes of one image."""
    device = predictors[-1].bbox_pred.weight.device
    stages = range(len(predictors))
    read = [_read_features(columns[column(s, FEATURES)][rows], device) for s in stages]
    logits = [predictor.cls_score(features) for predictor, features in zip(predictors, read)]
    if LAST_BOXES in columns:
        return logits, columns[LAST_BOXES][rows].to(device)
    proposals = Instances(input_size)
    proposals.proposal_boxes = Boxes(columns[PROPOSALS][rows].to(device))
    last = predictors[-1]
    (boxes,) = last.predict_boxes((logits[-1], last.bbox_pred(read[-1])), [proposals])
    return logits, boxes


def _read_features(mapped: Tensor, device: torch.device) -> Tensor:
    """Features (R, D) in float32, in memory that torch has allocated, as in the detector.

    Matrix products round otherwise where a row starts at another address modulo 16 bytes, and in
    a mapped file it starts anywhere.
    """
    return mapped.to(device, torch.float32, copy=True)


def calibrated_scores(
    rois: RoIs,
    predictors: Predictors,
    calibrations: Sequence[Calibration] | None = None,
) -> Tensor:
    """Scores of an image's regions, (R, K + 1): the mean over stages, as Detectron2 takes it.

    Args:
        rois: one image.
        predictors: the model's box predictors, not calibrated.
        calibrations: one a predictor; None for plain scores.
    """
    total = []
    for stage, (predictor, logits) in enumerate(zip(predictors, rois.logits)):
        # Of its proposals predict_probs reads the number alone, so the logits stand for them.
        def to_scores(changed: Tensor, predictor=predictor) -> Tensor:
            return predictor.predict_probs((changed, None), [changed])[0]

        if calibrations is None:
            total.append(to_scores(logits))
        else:
            total.append(calibrations[stage](logits, to_scores, predictor.cls_score))
    return sum(total) * (1.0 / len(total))


def detections(rois: RoIs, scores: Tensor, predictor: FastRCNNOutputLayers) -> Instances:
    """The detections of an image, in its dataset's pixels, as the model itself would give them."""
    (found,), _ = fast_rcnn_inference(
        [rois.boxes],
        [scores],
        [rois.input_size],
        predictor.test_score_thresh,
        predictor.test_nms_thresh,
        predictor.test_topk_per_image,
    )
    return detector_postprocess(found, *rois.size)
