"""What an evaluation returns, and the 13 LVIS metrics out of precision and recall.

Symbols: ``T`` IoU thresholds 0.5:0.05:0.95; ``R`` the 101 recall points 0:0.01:1; ``K`` categories
with ground truth, ids ascending; ``A`` area ranges all, small, medium, large. Where a category has
no ground truth in a range (or none at all), precision, recall and AP are -1, as in the official
package.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

# linspace, not arange: these are the official package's own floats.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
AREA_RANGES = {
    "all": (0.0, 1e5**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}
GROUPS = ("r", "c", "f")


@dataclass(frozen=True, eq=False)
class Curves:
    """What a backend computes, for the categories that have ground truth; others are undefined.

    Attributes:
        categories: (K,) ranks of these categories, ascending.
        precision: (T, R, K, A) float64, interpolated precision at the recall points, or -1.
        recall: (T, K, A) float64, or -1.
        num_detections: of every category of the dataset, how many detections were evaluated.
        fewer: number of detections to (T, K) recall over all areas with so many, or -1.
    """

    categories: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    num_detections: np.ndarray
    fewer: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ClassTable:
    """What is known of every category of a dataset, C of them, to be given out one by one.

    Attributes:
        ids: C category ids, ascending.
        names: C class names.
        num_images, num_instances: (C,), see :class:`CategoryResult`.
        curves: of the categories that have ground truth.
    """

    ids: list[int]
    names: list[str]
    num_images: np.ndarray
    num_instances: np.ndarray
    curves: Curves

    def results(self, groups: Mapping[str, Sequence[int]]) -> list[CategoryResult]:
        group_of = {i: group for group, ids in groups.items() for i in ids}
        place = {k: n for n, k in enumerate(self.curves.categories.tolist())}
        # A category is defined at all recall points or at none, and then -1 is its mean, too.
        over_recall = self.curves.precision[..., 0].mean(axis=1)  # (T, K)
        ap = over_recall.mean(axis=0)
        thresholds, points = len(IOU_THRESHOLDS), len(RECALL_POINTS)
        undefined = np.full((thresholds, points), -1.0), np.full(thresholds, -1.0)
        results = []
        for k, category_id in enumerate(self.ids):
            n = place.get(k)
            precision, recall = undefined
            if n is not None:
                precision, recall = self.curves.precision[:, :, n, 0], self.curves.recall[:, n, 0]
            results.append(
                CategoryResult(
                    id=category_id,
                    name=self.names[k],
                    frequency=group_of.get(category_id),
                    ap=-1.0 if n is None else float(ap[n]),
                    ap50=-1.0 if n is None else float(over_recall[0, n]),
                    ap75=-1.0 if n is None else float(over_recall[5, n]),
                    num_images=int(self.num_images[k]),
                    num_instances=int(self.num_instances[k]),
                    num_detections=int(self.curves.num_detections[k]),
                    precision=precision,
                    recall=recall,
                    recall_points=RECALL_POINTS,
                )
            )
        return results


@dataclass(frozen=True, eq=False)
class LVISResult:
    """An evaluation.

    Attributes:
        metrics: "AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300",
            "ARs@300", "ARm@300", "ARl@300" (the number is ``max_dets``), fractions in [0, 1], -1
            where undefined. By COCO's rules "AR@1" and "AR@10" as well.
        groups: "r", "c" and "f" to their category ids.
        iou_type: "bbox" or "segm".
        max_dets: detections that count of an image, or by COCO's rules of a category on an image;
            -1 for no limit.
        rule: "lvis", "fixed" or "coco".
    """

    metrics: dict[str, float]
    groups: dict[str, list[int]]
    iou_type: str
    max_dets: int
    rule: str
    _classes: ClassTable

    @functools.cached_property
    def per_category(self) -> list[CategoryResult]:
        """One entry a category, ids ascending; made when it is asked for."""
        return self._classes.results(self.groups)


def mean_defined(values: np.ndarray) -> float:
    """Mean of the defined entries, -1 without any; summed in the official order."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0


def group_ap(
    curves: Curves, category_ids: Sequence[int], groups: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """AP over all areas, of all categories ("AP") and of each group ("APr", "APc", "APf").

    Args:
        curves: the first of its areas is "all".
        category_ids: all ids of the dataset, ascending.
        groups: "r", "c" and "f" to category ids.
    """
    precision = curves.precision[..., 0]
    metrics = {"AP": mean_defined(precision)}
    rank = {category_id: k for k, category_id in enumerate(category_ids)}
    for group in GROUPS:
        members = np.isin(curves.categories, [rank[i] for i in groups.get(group, ())])
        metrics[f"AP{group}"] = mean_defined(precision[:, :, members])
    return metrics


def summarize(
    curves: Curves, category_ids: Sequence[int], groups: Mapping[str, Sequence[int]], max_dets: int
) -> dict[str, float]:
    """The 13 metrics of LVIS, or the 12 of COCO and APr, APc and APf.

    Args:
        curves: of all areas.
        category_ids: all ids of the dataset, ascending.
        groups: "r", "c" and "f" to category ids.
        max_dets: names the recall metrics.
    """
    precision, recall = curves.precision, curves.recall
    of_groups = group_ap(curves, category_ids, groups)
    metrics = {"AP": of_groups.pop("AP")}
    for percent in (50, 75):
        at = precision[np.flatnonzero(percent / 100 == IOU_THRESHOLDS)]
        metrics[f"AP{percent}"] = mean_defined(at[..., 0])
    for area, name in enumerate(list(AREA_RANGES)[1:], start=1):
        metrics[f"AP{name[0]}"] = mean_defined(precision[..., area])
    metrics |= of_groups
    metrics |= {f"AR@{n}": mean_defined(values) for n, values in sorted(curves.fewer.items())}
    metrics[f"AR@{max_dets}"] = mean_defined(recall[..., 0])
    for area, name in enumerate(list(AREA_RANGES)[1:], start=1):
        metrics[f"AR{name[0]}@{max_dets}"] = mean_defined(recall[..., area])
    return metrics


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
