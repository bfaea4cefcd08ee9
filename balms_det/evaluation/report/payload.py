"""Everything the page shows, as plain data for its script.

Per-class lists follow the ranks of the category ids. Undefined values are None. Fractions are in
percent with one decimal; precision in whole percent, at the recall points 0, 0.01, ..., 1, without
the zeros at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from balms_det.evaluation.detections import Detections
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.lvis_result import IOU_THRESHOLDS, LVISResult
from balms_det.evaluation.report.confusion import confusion_cells
from balms_det.evaluation.report.examples import Example, Shelf
from balms_det.evaluation.report.matching import Matches

# IoU thresholds of the precision-recall curves that are drawn.
_CURVES = {"pr50": 0.5, "pr75": 0.75}


@dataclass(frozen=True, eq=False)
class Run:
    """One results file, evaluated and matched."""

    name: str
    result: LVISResult
    detections: Detections
    matches: Matches


def classes_payload(truth: GroundTruth, runs: Sequence[Run], counts: Sequence[int]) -> dict:
    """What is the same in every run.

    Args:
        truth: the ground truth.
        runs: at least one.
        counts: K numbers of training images.
    """
    per_category = runs[0].result.per_category
    return {
        "ids": truth.category_ids,
        "names": truth.names,
        "groups": [category.frequency for category in per_category],
        "counts": [int(count) for count in counts],
        "images": [category.num_images for category in per_category],
        "instances": [category.num_instances for category in per_category],
    }


def run_payload(truth: GroundTruth, run: Run) -> dict:
    """What differs between runs."""
    categories = run.result.per_category
    curves = {
        key: [_curve(category.precision[_threshold(iou)]) for category in categories]
        for key, iou in _CURVES.items()
    }
    return {
        "name": run.name,
        "metrics": {name: _percent(value) for name, value in run.result.metrics.items()},
        "ap": [_percent(category.ap) for category in categories],
        "ap50": [_percent(category.ap50) for category in categories],
        "ap75": [_percent(category.ap75) for category in categories],
        "detections": [category.num_detections for category in categories],
        "confusion": confusion_cells(truth, run.detections, run.matches),
        **curves,
    }


def shelves_payload(shelves: Sequence[Shelf], drawn: dict[Example, dict]) -> list[dict]:
    """Shelves with the examples that were drawn."""
    return [
        {
            "class": shelf.category,
            "kind": shelf.kind,
            "run": shelf.run,
            "total": shelf.total,
            "examples": [drawn[example] for example in shelf.examples if example in drawn],
        }
        for shelf in shelves
    ]


def _threshold(iou: float) -> int:
    return int(np.argmin(np.abs(IOU_THRESHOLDS - iou)))


def _percent(value: float) -> float | None:
    return None if value < 0 else round(100 * float(value), 1)


def _curve(precision: np.ndarray) -> list[int] | None:
    if precision[0] < 0:
        return None
    return np.trim_zeros(np.round(100 * precision).astype(int), "b").tolist()
