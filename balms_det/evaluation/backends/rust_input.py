"""Ground truth and detections as hotcoco takes them; ``backends.rust`` says what is translated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from balms_det.evaluation.detections import Detections, distinct
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.lvis_result import AREA_RANGES, IOU_THRESHOLDS, RECALL_POINTS

_OUTSIDE_ALL_RANGES = 2 * AREA_RANGES["all"][1]


def set_params(params, truth: GroundTruth, limit: int, areas: Sequence[str]) -> None:
    """``limit``: detections of an image that count."""
    params.cat_ids = distinct(truth.category).tolist()
    params.iou_thrs, params.rec_thrs = IOU_THRESHOLDS.tolist(), RECALL_POINTS.tolist()
    params.max_dets = [limit]
    params.area_rng = [list(AREA_RANGES[area]) for area in areas]
    params.area_rng_lbl = list(areas)


def category_dicts(truth: GroundTruth) -> list[dict]:
    return [{"id": k, "name": name} for k, name in enumerate(truth.names)]


def image_dicts(truth: GroundTruth, detections: Detections, images: np.ndarray) -> list[dict]:
    """These images, (n,) ascending ranks, among which are those of the detections."""
    which = images.tolist()
    negative = (
        (truth.negative[n] for n in which)
        if truth.federated
        else _detected(truth, detections, images)
    )
    return [
        {
            "id": n,
            "height": truth.sizes[n][0],
            "width": truth.sizes[n][1],
            "neg_category_ids": absent,
            "not_exhaustive_category_ids": truth.not_exhaustive[n],
        }
        for n, absent in zip(which, negative)
    ]


def _detected(truth: GroundTruth, detections: Detections, images: np.ndarray) -> list[list[int]]:
    """For data annotated exhaustively: the categories that matter of all that are negative."""
    size = len(truth.category_ids)
    pairs = distinct(detections.image * size + detections.category)
    starts = np.searchsorted(pairs // size, images[1:])
    return [part.tolist() for part in np.split(pairs % size, starts)]


def instance_areas(truth: GroundTruth) -> np.ndarray:
    return np.where(truth.ignore, _OUTSIDE_ALL_RANGES, truth.area)


def instance_dicts(truth: GroundTruth, areas: np.ndarray, which: np.ndarray) -> list[dict]:
    columns = (truth.image[which], truth.category[which], truth.box[which], areas[which])
    instances = [
        {"id": n + 1, "image_id": image, "category_id": category, "bbox": box, "area": area}
        for n, image, category, box, area in zip(
            which.tolist(), *(column.tolist() for column in columns)
        )
    ]
    if truth.masks is not None:
        for instance, n in zip(instances, which.tolist()):
            instance["segmentation"] = truth.masks[n].segmentation
    return instances


def detection_rows(detections: Detections) -> np.ndarray:
    """(N, 7): image, x, y, width, height, score, category."""
    box = detections.box
    if box is None:
        box = np.zeros((len(detections), 4))
        box[:, 2], box[:, 3] = detections.area, 1.0
    return np.column_stack([detections.image, box, detections.score, detections.category])
