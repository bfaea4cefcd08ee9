"""How much AP depends on which images happen to be in the validation set.

The bootstrap over images (Efron & Tibshirani, 1993, chapters 6 and 13): draw as many images as
there are, with replacement, and compute AP of the draw; the spread over many draws is that of AP
itself. An image that is drawn twice counts twice, so a draw is a weight for every image, and AP is
computed with weighted counts. Two methods are compared on the same draws.

Symbols: ``N`` images, ``B`` draws; the others as in ``matches``.

Symbols: ``D`` detections of the category, highest score first; ``T`` IoU thresholds 0.5:0.05:0.95;
``G`` its instances that count.

"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from balms_det.evaluation.backends import hotcoco as rust
from balms_det.evaluation.detections import Detections
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.metrics import IOU_THRESHOLDS, RECALL_POINTS

# Limits the memory of one step: detections times draws.
_BLOCK = 4_000_000


def draw_weights(num_images: int, draws: int, seed: int) -> np.ndarray:
    """(B, N) uint16: how often each draw has each image. Each row sums to N."""
    generator = np.random.default_rng(seed)
    weights = np.empty((draws, num_images), np.uint16)
    for row in weights:
        row[:] = np.bincount(generator.integers(0, num_images, num_images), minlength=num_images)
    return weights


def weighted_ap(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """(B,) float64, AP over the IoU thresholds 0.5:0.95; NaN where a draw has no instance.

    With weights of 1 it is the AP of ``evaluate_lvis``, up to rounding.

    Args:
        matches: of one category.
        weights: (B, N) whole numbers.
    """
    if not len(matches.positive_image):
        return np.full(len(weights), np.nan)
    hits = np.flatnonzero(matches.hit.any(axis=0))
    end = hits[-1] + 1 if len(hits) else 0  # what follows the last hit changes no precision
    rows = max(_BLOCK // max(end, 1), 1)
    blocks = (weights[start : start + rows] for start in range(0, len(weights), rows))
    return np.concatenate([_block_ap(matches, block, end) for block in blocks])


def _block_ap(matches: Matches, weights: np.ndarray, end: int) -> np.ndarray:
    positives = weights[:, matches.positive_image].sum(axis=1, dtype=np.int64)
    weight = weights.T[matches.image[:end]].astype(np.int32)  # (end, B)
    total = np.cumsum(weight, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        aps = [
            _threshold_ap(hit[:end], ignored[:end], weight, total, positives)
            for hit, ignored in zip(matches.hit, matches.ignored)
        ]
    return np.where(positives > 0, np.mean(aps, axis=0), np.nan)


def _threshold_ap(
    hit: np.ndarray,
    ignored: np.ndarray,
    weight: np.ndarray,
    total: np.ndarray,
    positives: np.ndarray,
) -> np.ndarray:
    """(B,) AP at one IoU threshold, from the precision at each hit."""
    place = np.flatnonzero(hit)
    if not len(place):
        return np.zeros(weight.shape[1])
    hits = np.cumsum(weight[place], axis=0)
    counted = total[place] - _ignored_before(ignored, weight, place)
    precision = np.where(counted > 0, hits / counted, 0.0)
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    # A recall point takes the precision of the first hit that reaches it.
    reached = np.searchsorted(RECALL_POINTS, hits / positives, side="right")
    points = np.diff(reached, axis=0, prepend=0)
    return (precision * points).sum(axis=0) / len(RECALL_POINTS)


def _ignored_before(ignored: np.ndarray, weight: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(P, B) or 0: weight of the ignored detections before each place."""
    where = np.flatnonzero(ignored)
    if not len(where):
        return np.zeros(1, np.int64)
    sums = np.concatenate([np.zeros((1, weight.shape[1]), np.int64), np.cumsum(weight[where], 0)])
    return sums[np.searchsorted(where, place)]


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
    """Match by the rules of the ground truth, instances of all areas.

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
