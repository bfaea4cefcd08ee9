"""What the instances of each class are taken for.

Symbols: ``K`` classes by rank of their ids; class ``K`` stands for "not found".
"""

from __future__ import annotations

import numpy as np

from balms_det.evaluation.detections import Detections
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.report.matching import Matches

# Cells kept of each row and of each column: bounds the page at any number of classes.
KEPT = 12


def confusion_cells(
    truth: GroundTruth, detections: Detections, matches: Matches
) -> list[tuple[int, int, int]]:
    """Non-zero cells (class of the instance, class it is taken for or K, instances).

    An instance is taken for the class of the detection that takes it in the matching over all
    classes. The largest ``KEPT`` cells of each row and of each column are returned, and every cell
    of the diagonal and of "not found".
    """
    size = len(truth.category_ids)
    counted = np.flatnonzero(~truth.ignore)
    by = matches.taken_by[counted]
    predicted = np.where(by >= 0, detections.category[by] if len(detections) else size, size)
    codes, counts = np.unique(truth.category[counted] * (size + 1) + predicted, return_counts=True)
    rows, columns = codes // (size + 1), codes % (size + 1)
    kept = (rows == columns) | (columns == size)
    kept |= _place_in_group(rows, counts) < KEPT
    kept |= _place_in_group(columns, counts) < KEPT
    return list(zip(rows[kept].tolist(), columns[kept].tolist(), counts[kept].tolist()))


def _place_in_group(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(N,) place of each value in its group, 0 for the largest."""
    order = np.lexsort((-value, group))
    _, start, size = np.unique(group[order], return_index=True, return_counts=True)
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - np.repeat(start, size)
    return place
