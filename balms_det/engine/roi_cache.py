"""What the detector says about every region, recorded once so that scores can be made again.

Symbols: ``R`` RoIs of an image, ``L`` logits, ``S`` box heads (1, or the stages of a cascade).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

from balms_det.modeling.calibration import Calibration, box_predictors
from balms_det.modeling.fast_inference import fast_rcnn_inference


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

    def to(self, device: torch.device) -> RoIs:
        logits = [z.to(device) for z in self.logits]
        return RoIs(self.image_id, self.size, self.input_size, logits, self.boxes.to(device))


class RoICache:
    """RoIs of many images in a folder, a file an image, so that memory does not grow with them.

    A file takes ``4 * R * (S * L + 4)`` bytes, or ``4 * R * (S * L + 4 K)`` with class-specific
    boxes: 25 kB for ``icons_lt``, 24 MB for 1,000 proposals of LVIS.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._paths: list[Path] = []

    def add(self, rois: RoIs) -> None:
        path = self.folder / f"{len(self._paths):06d}.pt"
        torch.save(vars(rois), path)
        self._paths.append(path)

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[RoIs]:
        for path in self._paths:
            yield RoIs(**torch.load(path, weights_only=True))


@torch.no_grad()
def record_rois(model: nn.Module, loader: Iterable[list[dict]], cache: RoICache) -> None:
    """Run a detector once over a loader of single images and keep its regions.

    Nothing passes the score threshold meanwhile, so neither suppression nor masks are computed.

    Args:
        model: a ``GeneralizedRCNN`` whose box predictors are ``FastRCNNOutputLayers``.
        loader: batches of one dataset dict with ``image``, ``image_id``, ``height``, ``width``.
        cache: what they are added to.

    Raises:
        ValueError: a batch of several images.
    """
    model.eval()
    predictors = box_predictors(model)
    with _recorder(predictors) as seen:
        for batch in loader:
            if len(batch) != 1:
                raise ValueError(f"RoIs are recorded image by image, got a batch of {len(batch)}")
            (record,) = batch
            (output,) = model.inference(batch, do_postprocess=False)
            logits = [seen[stage].cpu() for stage in range(len(predictors))]
            size = (record["height"], record["width"])
            boxes = seen["boxes"].cpu()
            cache.add(RoIs(record["image_id"], size, tuple(output.image_size), logits, boxes))


@contextlib.contextmanager
def _recorder(predictors: Sequence[FastRCNNOutputLayers]) -> Iterator[dict]:
    """Make the predictors note their logits by stage, and the last their boxes."""
    seen: dict = {}
    thresholds = [predictor.test_score_thresh for predictor in predictors]
    for stage, predictor in enumerate(predictors):
        # Attributes of the instance hide the methods until they are deleted again.
        predictor.predict_probs = partial(_note_logits, seen, stage, predictor.predict_probs)
        predictor.predict_boxes = partial(_note_boxes, seen, predictor.predict_boxes)
        predictor.test_score_thresh = math.inf
    try:
        yield seen
    finally:
        for predictor, threshold in zip(predictors, thresholds):
            del predictor.predict_probs, predictor.predict_boxes
            predictor.test_score_thresh = threshold


def _note_logits(seen: dict, stage: int, predict_probs, predictions, proposals):
    seen[stage] = predictions[0]
    return predict_probs(predictions, proposals)


def _note_boxes(seen: dict, predict_boxes, predictions, proposals):
    boxes = predict_boxes(predictions, proposals)
    seen["boxes"] = boxes[0]  # of a cascade, the last stage is the last to call
    return boxes


def calibrated_scores(
    rois: RoIs,
    predictors: Sequence[FastRCNNOutputLayers],
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
