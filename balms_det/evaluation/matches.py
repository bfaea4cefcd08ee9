"""Which detections of a category hit an instance, image by image: AP can be computed from it.

Symbols: ``D`` detections of the category, highest score first; ``T`` IoU thresholds 0.5:0.05:0.95;
``G`` its instances that count.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from balms_det.evaluation.backends import rust
from balms_det.evaluation.detections import Detections
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.lvis_result import IOU_THRESHOLDS


@dataclass(frozen=True, eq=False)
class Matches:
    """One category.

    Attributes:
        image: (D,) int64, rank of the image.
        hit: (T, D) bool, matched to an instance that counts.
        ignored: (T, D) bool, neither a hit nor a false positive.
        positive_image: (G,) int64, ranks of the images of its instances.
    """

    image: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    positive_image: np.ndarray


def match_detections(truth: GroundTruth, detections: Detections, iou_type: str) -> list[Matches]:
    """Match as LVIS does, instances of all areas.

    Args:
        truth: with masks where they are evaluated.
        detections: those that count (``evaluated_detections``).
        iou_type: "bbox" or "segm".

    Returns:
        One entry a category, ids ascending.
    """
    evaluator = rust.matched(truth, detections, iou_type, areas=("all",))
    records = defaultdict(list)
    for record in evaluator.eval_imgs:
        if record is not None:
            records[record["category_id"]].append(record)
    return [_join(records[category]) for category in range(len(truth.category_ids))]


def _join(records: list[dict]) -> Matches:
    records.sort(key=lambda record: record["image_id"])
    images = np.array([record["image_id"] for record in records], dtype=np.int64)
    score = np.concatenate([np.zeros(0), *(record["dtScores"] for record in records)])
    # Stable, images ascending: ties fall as in the official package.
    order = np.argsort(-score, kind="stable")
    ignored = _flags(records, "dtIgnore")[:, order]
    return Matches(
        image=np.repeat(images, [len(record["dtScores"]) for record in records])[order],
        hit=_flags(records, "dtMatched")[:, order] & ~ignored,
        ignored=ignored,
        positive_image=np.repeat(images, [sum(record["gtInDenominator"]) for record in records]),
    )


def _flags(records: list[dict], key: str) -> np.ndarray:
    size = len(IOU_THRESHOLDS)
    parts = (np.array(record[key], dtype=bool).reshape(size, -1) for record in records)
    return np.concatenate([np.zeros((size, 0), bool), *parts], axis=1)
