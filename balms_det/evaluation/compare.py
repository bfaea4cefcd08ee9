"""Is one set of results better than another, and for which classes?"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from balms_det.evaluation.bootstrap import Matches, draw_weights, match_detections, weighted_ap
from balms_det.evaluation.detections import evaluated_detections
from balms_det.evaluation.ground_truth import GroundTruth, read_ground_truth
from balms_det.evaluation.lvis import Groups, check_arguments, group_members
from balms_det.evaluation.results.read import read_detections
from balms_det.evaluation.rules import applied_rule, detection_limits
from balms_det.utils.files import write_atomically
from balms_det.utils.trust import markdown_cell


@dataclass(frozen=True)
class Difference:
    """AP of A and B over a group of classes or in one class; percent, NaN where undefined.

    Attributes:
        name: "AP", "APr", "APc", "APf", or the class.
        group: "r", "c" or "f" of a class; "" for a group of classes or where there are no labels.
        images: images with an instance.
        ap_a: AP of A.
        ap_b: AP of B.
        difference: B minus A.
        low: lower end of the interval of the difference; NaN with instances on one image alone,
            which is the same in every draw.
        high: upper end.
    """

    name: str
    group: str
    images: int
    ap_a: float
    ap_b: float
    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Differences of B from A: of the ``groups`` AP, APr, APc and APf, and of all ``classes``."""

    groups: list[Difference]
    classes: list[Difference]


def compare_results(
    gt: Any,
    a: Any,
    b: Any,
    iou_type: str = "segm",
    max_dets: int | None = None,
    *,
    rule: str = "default",
    groups: Groups | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    lenient: bool = False,
) -> Comparison:
    """Compare two sets of results, with percentile bootstrap intervals over images.

    The intervals say how far the difference depends on the choice of validation images. They do not
    hold the spread between training runs: compare several seeds for that. In a draw without an
    instance of a class its AP is undefined, and the class is left out of the draw's averages.

    Args:
        gt, a, b, iou_type, max_dets, rule, groups, lenient: as in ``evaluate_lvis``.
        draws: bootstrap draws; the ends of a 95 % interval need some 1,000.
        level: share of the draws that an interval holds.
        seed: of the draws.

    Raises:
        ValueError: see ``evaluate_lvis``; or draws or a level out of range.
    """
    check_arguments(iou_type, max_dets, "hotcoco", rule, boundary=False)
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"draws={draws}, level={level}: need draws >= 1 and 0 < level < 1.")
    truth = read_ground_truth(gt, iou_type == "segm", rule)
    members = group_members(truth, groups)
    limits = detection_limits(applied_rule(rule, truth.coco), max_dets)
    weights = draw_weights(len(truth.image_ids), draws, seed)
    aps = []
    for results in (a, b):
        detections = read_detections(results, truth, iou_type, lenient)
        detections = evaluated_detections(truth, detections, limits)
        aps.append(_class_aps(match_detections(truth, detections, iou_type), weights))
    tails = (1 - level) / 2, (1 + level) / 2
    return _comparison(truth, members, *aps, tails)


def _class_aps(matches: Sequence[Matches], weights: np.ndarray) -> np.ndarray:
    """(K, 1 + B) percent: of all images first, then of each draw."""
    everything = np.concatenate([np.ones((1, weights.shape[1]), weights.dtype), weights])
    return 100 * np.stack([weighted_ap(category, everything) for category in matches])


def _comparison(
    truth: GroundTruth, members: dict[str, list[int]], a: np.ndarray, b: np.ndarray, tails
) -> Comparison:
    counted = ~truth.ignore
    size = len(truth.category_ids)
    pairs = np.unique(truth.image[counted] * size + truth.category[counted])
    images = np.bincount(pairs % size, minlength=size)
    rank = {category_id: k for k, category_id in enumerate(truth.category_ids)}
    rows = {"AP": np.arange(size)}
    rows |= {f"AP{g}": np.array([rank[i] for i in ids], int) for g, ids in members.items()}
    label = {i: group for group, ids in members.items() for i in ids}
    groups = []
    for name, own in rows.items():
        held = len(np.unique(pairs[np.isin(pairs % size, own)] // size))
        groups.append(_difference(name, "", held, _mean(a[own]), _mean(b[own]), tails))
    classes = [
        _difference(name, label.get(category_id, ""), int(images[k]), a[k], b[k], tails)
        for k, (category_id, name) in enumerate(zip(truth.category_ids, truth.names))
    ]
    return Comparison(groups, classes)


def _mean(rows: np.ndarray) -> np.ndarray:
    """(1 + B,) mean over the classes that are defined, NaN without any."""
    defined = ~np.isnan(rows)
    count = defined.sum(axis=0)
    total = np.where(defined, rows, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _difference(name, group, images, a: np.ndarray, b: np.ndarray, tails) -> Difference:
    change = b - a
    drawn = change[1:][~np.isnan(change[1:])]
    known = images > 1 and len(drawn)
    low, high = np.quantile(drawn, tails).tolist() if known else (np.nan, np.nan)
    return Difference(name, group, images, float(a[0]), float(b[0]), float(change[0]), low, high)


_COLUMNS = ("name", "group", "images", "ap_a", "ap_b", "difference", "low", "high")


def comparison_table(comparison: Comparison, most: int = 10) -> str:
    """Markdown: the groups, then the ``most`` classes that lose and that gain the most."""
    defined = [row for row in comparison.classes if not math.isnan(row.difference)]
    ranked = sorted(defined, key=lambda row: row.difference)
    ends = ranked if len(ranked) <= 2 * most else [*ranked[:most], *ranked[-most:]]
    clear = sum(row.clear for row in defined)
    return (
        f"{_table(comparison.groups)}\n\n{clear} of {len(defined)} classes differ clearly "
        f"(0 outside of the interval, *). Most changed:\n\n{_table(ends)}"
    )


def _table(rows: Sequence[Difference]) -> str:
    body = [
        (
            *(markdown_cell(row.name), row.group, row.images, _show(row.ap_a), _show(row.ap_b)),
            f"{_show(row.difference, '+')}{'*' if row.clear else ''}",
            "-" if math.isnan(row.low) else f"{row.low:+.1f} to {row.high:+.1f}",
        )
        for row in rows
    ]
    header = ("", "group", "images", "A", "B", "B - A", "interval")
    align = ("left", "left", *["right"] * 5)
    return tabulate(body, header, tablefmt="pipe", colalign=align, disable_numparse=True)


def _show(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.1f}"


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write every group and class as CSV; undefined values are empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for row in (*comparison.groups, *comparison.classes):
        values = (getattr(row, column) for column in _COLUMNS)
        writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in values])
    write_atomically(path, text.getvalue())
