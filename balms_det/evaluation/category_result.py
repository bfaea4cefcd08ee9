"""What an evaluation says about one category."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class CategoryResult:
    """One category; AP and the curves are over all areas, fractions in [0, 1], -1 where undefined.

    Attributes:
        id: category id of the dataset.
        name: class name.
        frequency: "r", "c" or "f", or None where the dataset is not grouped.
        ap: AP over the IoU thresholds 0.5:0.95.
        ap50: AP at IoU 0.5.
        ap75: AP at IoU 0.75.
        num_images: evaluated images that hold the category.
        num_instances: its ground-truth instances, ignored ones left out.
        num_detections: its detections within the detection limit.
        precision: (T, 101) precision at the recall points.
        recall: (T,) recall of all detections.
        recall_points: (101,) recall points 0, 0.01, ..., 1.
    """

    id: int
    name: str
    frequency: str | None
    ap: float
    ap50: float
    ap75: float
    num_images: int
    num_instances: int
    num_detections: int
    precision: np.ndarray
    recall: np.ndarray
    recall_points: np.ndarray
