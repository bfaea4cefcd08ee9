"""Which examples of each class the gallery shows.

Symbols: ``K`` classes by rank of their ids; run ``-1`` stands for the ground truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from balms_det.evaluation.detections import Detections
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.report.matching import NONE, Matches

GROUND_TRUTH, WRONG, MISS, HIT = KINDS = ("gt", "fp", "miss", "tp")


@dataclass(frozen=True)
class Example:
    """One picture of the gallery.

    Attributes:
        category: rank of the class in whose gallery it is.
        kind: "gt", "tp", "fp" or "miss".
        run: index of the run, -1 for ground truth.
        image: rank of the image.
        truth: annotation that it shows, -1 for none.
        detection: detection of the run that it shows, -1 for none. Of a miss, it is the one of
            another class that took the instance.
    """

    category: int
    kind: str
    run: int
    image: int
    truth: int
    detection: int


@dataclass(frozen=True)
class Shelf:
    """The examples of one class and kind of one run, the best to show first, out of ``total``."""

    category: int
    kind: str
    run: int
    total: int
    examples: list[Example]


def truth_shelves(truth: GroundTruth, limit: int) -> list[Shelf]:
    """Instances of each class, largest first."""
    groups = _by_class(np.flatnonzero(~truth.ignore), truth.category, -truth.area)
    shelves = []
    for k, chosen in groups:
        shown = _spread(chosen, truth.image, limit)
        examples = [Example(k, GROUND_TRUTH, NONE, int(truth.image[g]), g, NONE) for g in shown]
        shelves.append(Shelf(k, GROUND_TRUTH, NONE, len(chosen), examples))
    return shelves


def run_shelves(
    truth: GroundTruth, detections: Detections, matches: Matches, run: int, limit: int
) -> list[Shelf]:
    """A run's true and false positives, highest scores first, and its misses, largest first."""
    shelves = []
    for kind, members in (
        (HIT, np.flatnonzero(matches.truth_of >= 0)),
        (WRONG, np.flatnonzero(matches.wrong)),
    ):
        for k, chosen in _by_class(members, detections.category, -detections.score):
            examples = []
            for d in _spread(chosen, detections.image, limit):
                g = int(matches.truth_of[d] if kind == HIT else matches.nearest[d])
                examples.append(Example(k, kind, run, int(detections.image[d]), g, d))
            shelves.append(Shelf(k, kind, run, len(chosen), examples))
    missed = np.flatnonzero((matches.found_by < 0) & ~truth.ignore)
    for k, chosen in _by_class(missed, truth.category, -truth.area):
        shown = _spread(chosen, truth.image, limit)
        examples = [
            Example(k, MISS, run, int(truth.image[g]), g, int(matches.taken_by[g])) for g in shown
        ]
        shelves.append(Shelf(k, MISS, run, len(chosen), examples))
    return shelves


def in_turn(shelves: Sequence[Shelf]) -> Iterator[Example]:
    """All examples: the first of every shelf, then the second of every shelf, and so on.

    Whatever room there is for pictures is so shared evenly between classes and runs; if it is too
    small even for one example a shelf, true positives go without before the others.
    """
    ranked = sorted(shelves, key=lambda shelf: KINDS.index(shelf.kind))
    for place in range(max((len(shelf.examples) for shelf in shelves), default=0)):
        for shelf in ranked:
            if place < len(shelf.examples):
                yield shelf.examples[place]


def _by_class(
    members: np.ndarray, category: np.ndarray, key: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """(class, its members in ascending order of ``key``), for the classes that have members."""
    if not len(members):
        return
    order = members[np.lexsort((key[members], category[members]))]
    classes, start = np.unique(category[order], return_index=True)
    yield from zip(classes.tolist(), np.split(order, start[1:]))


def _spread(chosen: np.ndarray, image: np.ndarray, limit: int) -> list[int]:
    """The first of each image before the second of any, so that one image does not fill a shelf."""
    head = chosen[: 8 * limit]
    seen: Counter[int] = Counter()
    turns = []
    for i in image[head].tolist():
        turns.append(seen[i])
        seen[i] += 1
    return head[np.argsort(turns, kind="stable")][:limit].tolist()
