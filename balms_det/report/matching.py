"""Which detection found which instance, at IoU 0.5. For display: no metric comes from here.

Two greedy matchings, both in order of falling score, the earlier detection first among equals:

- *same class*: a detection takes the free instance of its own class that it overlaps most. What it
  leaves are the false positives and the misses of the gallery.
- *any class*: the same without asking for the class. An instance's class against that of the
  detection that takes it is a cell of the confusion matrix.

Symbols: ``M`` annotations of the ground truth, ``D`` detections.

Symbols: ``K`` classes by rank of their ids; class ``K`` stands for "not found".

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_api

from balms_det.evaluation.detections import Detections
from balms_det.evaluation.ground_truth import GroundTruth

IOU_THRESHOLD = 0.5
NONE = -1


@dataclass(frozen=True, eq=False)
class Matches:
    """Indices into the other side, -1 for none.

    Attributes:
        truth_of: (D,) annotation of its own class that a detection takes.
        nearest: (D,) annotation of any class that it overlaps most, from IoU 0.5 on.
        overlap: (D,) its IoU with ``truth_of``, else with ``nearest``, else 0.
        wrong: (D,) bool, a false positive. Not a detection of a class that is not verified on the
            image or not annotated exhaustively there, nor one on an ignored annotation.
        found_by: (M,) detection of its own class that takes an annotation.
        taken_by: (M,) detection of any class that takes it.
    """

    truth_of: np.ndarray
    nearest: np.ndarray
    overlap: np.ndarray
    wrong: np.ndarray
    found_by: np.ndarray
    taken_by: np.ndarray


def match(truth: GroundTruth, detections: Detections) -> Matches:
    """Match all detections, image by image; by masks where the detections have masks."""
    matches = _nothing_matched(len(truth.image), len(detections))
    order = np.lexsort((-detections.score, detections.image))
    splits = np.arange(1, len(truth.image_ids))
    of_image = np.split(order, np.searchsorted(detections.image[order], splits))
    annotations = np.argsort(truth.image, kind="stable")
    at_image = np.split(annotations, np.searchsorted(truth.image[annotations], splits))
    for image, (d, g) in enumerate(zip(of_image, at_image)):
        if len(d):
            _match_image(truth, detections, image, d, g, matches)
    return matches


def _nothing_matched(num_truth: int, num_detections: int) -> Matches:
    return Matches(
        truth_of=np.full(num_detections, NONE),
        nearest=np.full(num_detections, NONE),
        overlap=np.zeros(num_detections),
        wrong=np.zeros(num_detections, bool),
        found_by=np.full(num_truth, NONE),
        taken_by=np.full(num_truth, NONE),
    )


def _match_image(
    truth: GroundTruth,
    detections: Detections,
    image: int,
    d: np.ndarray,
    g: np.ndarray,
    matches: Matches,
) -> None:
    """Fill in one image: detections ``d``, highest score first, annotations ``g``."""
    category = detections.category[d]
    scored = np.isin(category, _scored_categories(truth, image, g))
    if not len(g):
        matches.wrong[d] = scored
        return
    iou = _iou(truth, detections, d, g)
    same = category[:, None] == truth.category[g][None]
    counted = ~truth.ignore[g][None]
    own = _greedy(iou, same & counted)
    anyone = _greedy(iou, np.broadcast_to(counted, iou.shape))
    near = np.where(counted, iou, 0).argmax(1)
    near = np.where((iou * counted)[np.arange(len(d)), near] >= IOU_THRESHOLD, near, NONE)
    best = np.where(own >= 0, own, near)
    ignored = (iou * (same & ~counted)).max(1) >= IOU_THRESHOLD
    matches.truth_of[d] = np.where(own >= 0, g[own], NONE)
    matches.nearest[d] = np.where(near >= 0, g[near], NONE)
    matches.overlap[d] = np.where(best >= 0, iou[np.arange(len(d)), best], 0)
    matches.wrong[d] = scored & (own < 0) & ~ignored
    matches.found_by[g[own[own >= 0]]] = d[own >= 0]
    matches.taken_by[g[anyone[anyone >= 0]]] = d[anyone >= 0]


def _scored_categories(truth: GroundTruth, image: int, g: np.ndarray) -> np.ndarray:
    """Categories whose unmatched detections are wrong on an image (LVIS, section 2.3)."""
    if not truth.federated:
        return np.arange(len(truth.category_ids))
    verified = np.union1d(truth.category[g], np.asarray(truth.negative[image], np.int64))
    return np.setdiff1d(verified, np.asarray(truth.not_exhaustive[image], np.int64))


def _iou(truth: GroundTruth, detections: Detections, d: np.ndarray, g: np.ndarray) -> np.ndarray:
    """(len(d), len(g)); with a crowd of COCO's, the share of the detection that lies in it."""
    crowd = truth.crowd[g].astype(np.uint8).tolist()
    if detections.masks is None:
        return mask_api.iou(detections.box[d], truth.box[g], crowd)
    return mask_api.iou([detections.masks[n] for n in d], [truth.rles[n] for n in g], crowd)


def _greedy(iou: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """(D,) column that each row takes, or -1; rows choose in their order, each column goes once."""
    candidates = np.where(allowed & (iou >= IOU_THRESHOLD), iou, 0)
    chosen = np.full(len(iou), NONE)
    for row in np.flatnonzero(candidates.any(1)):
        column = int(candidates[row].argmax())
        if candidates[row, column] > 0:
            chosen[row] = column
            candidates[:, column] = 0
    return chosen


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
