"""A chunk of results into columns; the entries that have a fault are reported and left out."""

from __future__ import annotations

import itertools
import numbers
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from balms_det.annotations.masks import rle_pixels
from balms_det.evaluation.detections import MaskColumn
from balms_det.evaluation.results.columns import (
    Columns,
    KnownIds,
    finite_boxes,
    read_ids,
)

_MISSING = object()
_MAX_SIDE = 2**31
_EMPTY_RLE = {"size": (0, 0), "counts": ""}


class _ChunkReader:
    """Reads columns of some entries; ``good`` says which entries have had no fault so far."""

    def __init__(self, entries: Sequence, offset: int, problems: dict) -> None:
        self.entries, self.offset, self.problems = entries, offset, problems
        self.good = np.ones(len(entries), bool)
        objects = _each(entries, lambda entry: isinstance(entry, dict))
        self.report("is not an object", ~objects, entries)
        self.entries = _only(objects, entries, {})

    def report(self, text: str, bad: np.ndarray, values: Sequence, drop: bool = True) -> None:
        """Count a fault of the ``bad`` entries that had none before; it is one if they ``drop``."""
        where = np.flatnonzero(bad & self.good)
        if len(where):
            example = values[where[0]]
            shown = "" if example is _MISSING else f"{example!r:.80}"
            Problem.add(self.problems, text, where + self.offset, shown)
            self.good[where] = not drop

    def values(self, key: str) -> list:
        """The values of a key."""
        values = [entry.get(key, _MISSING) for entry in self.entries]
        missing = _each(values, lambda value: value is _MISSING)
        self.report(f"has no '{key}'", missing, [sorted(entry, key=str) for entry in self.entries])
        return values

    def ranks(self, key: str, rank: dict, drop: bool = True) -> np.ndarray:
        """Ranks, 0 where there is none; -1 with ``drop=False``, which keeps such entries."""
        values = self.values(key)
        ranks = np.fromiter((_rank(rank, value) for value in values), np.int64, len(values))
        self.report(f"has an {key} that the dataset does not list", ranks < 0, values, drop)
        return np.maximum(ranks, 0) if drop else ranks

    def ids(self) -> list | None:
        """The optional ids; None where an entry has none."""
        ids = read_ids(self.entries)
        if ids is not None:
            self.report("has an id that is a list or an object", ~_each(ids, _is_hashable), ids)
        return ids

    def numbers(self, key: str, values: Sequence) -> np.ndarray:
        real = _each(values, _is_number)
        self.report(f"has a {key} that is not a number", ~real, values)
        array = np.fromiter(_only(real, values, 0.0), np.float64, len(values))
        self.report(f"has a {key} that is not finite", ~np.isfinite(array), values)
        return array

    def boxes(self) -> np.ndarray:
        """(N, 4); a missing box is that of the mask."""
        self.entries = [_with_box(entry) for entry in self.entries]
        values = self.values("bbox")
        fits = _each(values, _is_box)
        self.report("has a bbox that is not a list of 4 numbers", ~fits, values)
        flat = itertools.chain.from_iterable(_only(fits, values, (0, 0, 0, 0)))
        box = np.fromiter(flat, np.float64, 4 * len(values)).reshape(-1, 4)
        self.report("has a bbox that is not finite", ~finite_boxes(box), values)
        self.report("has a bbox of negative size", (box[:, 2:] < 0).any(1), values)
        return box

    def masks(self, image: np.ndarray, known: KnownIds) -> MaskColumn:
        """The masks, which have to be as large as their images, (N,) ranks."""
        values = self.values("segmentation")
        fits = _each(values, _is_rle)
        self.report("has a segmentation that is not a compressed RLE", ~fits, values)
        values = _only(fits, values, _EMPTY_RLE)
        flat = itertools.chain.from_iterable(map(operator.itemgetter("size"), values))
        size = np.fromiter(flat, np.int64, 2 * len(values)).reshape(-1, 2)
        expected = known.sizes[image]
        wrong = (size != expected).any(1)
        if (wrong & self.good).any():
            pairs = zip(size.tolist(), expected.tolist())
            shown = [{"mask": own, "image": right} for own, right in pairs]
            self.report("has a mask of another (height, width) than its image", wrong, shown)
        counts = list(map(operator.itemgetter("counts"), values))
        return MaskColumn(counts, image, known.size_lists)


def _each(values: Sequence, test: Callable[[Any], bool]) -> np.ndarray:
    """(N,) bool, the test of each value."""
    return np.fromiter(map(test, values), bool, len(values))


def _only(fits: np.ndarray, values: list, other: Any) -> list:
    """The values, those that do not fit replaced."""
    if fits.all():
        return values
    return [value if ok else other for value, ok in zip(values, fits.tolist())]


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, numbers.Real) and isinstance(float(value), float)
    except OverflowError:  # json has whole numbers without end
        return False


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple, np.ndarray))
        and len(value) == 4
        and all(map(_is_number, value))
    )


def _is_rle(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("counts"), (str, bytes))
        and isinstance(value.get("size"), (list, tuple))
        and len(value["size"]) == 2
        and all(isinstance(side, numbers.Integral) for side in value["size"])
        and max(map(abs, value["size"])) < _MAX_SIDE
    )


def _rank(rank: dict, value: Any) -> int:
    return rank.get(value, -1) if isinstance(value, (str, numbers.Real)) else -1


def _with_box(entry: dict) -> dict:
    if "bbox" in entry or not _is_rle(entry.get("segmentation")):
        return entry
    return {**entry, "bbox": mask_api.toBbox(entry["segmentation"]).tolist()}


_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd and irregular: 2**64 over the golden ratio


def find_duplicates(columns: Columns, problems: dict, copies: bool) -> Columns:
    """Report ids that are used twice and, with ``copies``, entries equal to an earlier one.

    Equal entries have the same image, category, score and box or mask: a file that was joined from
    overlapping parts. Ids mean nothing to an evaluation, so an entry is not dropped for its id.

    Args:
        columns: N entries.
        problems: fault text to :class:`Problem`, added to.
        copies: whether to look for equal entries.

    Returns:
        The columns without the later copies.
    """
    if columns.ids is not None:
        _report_ids(columns, problems)
    if not copies:
        return columns
    suspects = _equal_hashes(_hashes(columns))
    later = _later_copies(columns, suspects)
    if not len(later):
        return columns
    first = _key(columns, later[0])
    text = "is there twice: an earlier entry has the same image, category, score and shape"
    Problem.add(problems, text, columns.index[later], f"score {first[2]!r}")
    return columns.take(np.setdiff1d(np.arange(len(columns)), later))


def _report_ids(columns: Columns, problems: dict) -> None:
    if len(set(columns.ids)) == len(columns.ids):
        return
    seen, twice = set(), []
    for n, entry_id in enumerate(columns.ids):
        if entry_id in seen:
            twice.append(n)
        seen.add(entry_id)
    text = "has an id that an earlier entry has"
    Problem.add(problems, text, columns.index[twice], repr(columns.ids[twice[0]]), dropped=False)


def _hashes(columns: Columns) -> np.ndarray:
    """(N,) uint64; equal for equal entries, and hardly ever for others."""
    parts = [columns.image, columns.category, columns.score]
    parts += [] if columns.box is None else list(columns.box.T)
    if columns.masks is not None:
        parts.append(np.fromiter(map(hash, columns.masks.counts), np.int64, len(columns)))
    total = np.zeros(len(columns), np.uint64)
    for part in parts:
        total ^= (part + 0).view(np.uint64)  # + 0 turns -0.0, which equals 0.0, into 0.0
        total *= _MULTIPLIER
        total ^= total >> np.uint64(29)
    return total


def _equal_hashes(hashes: np.ndarray) -> np.ndarray:
    """Ascending indices of the entries whose hash another one has too."""
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.flatnonzero(np.isin(hashes, repeated)) if len(repeated) else np.zeros(0, np.int64)


def _later_copies(columns: Columns, suspects: np.ndarray) -> np.ndarray:
    seen, later = set(), []
    for n in suspects.tolist():
        key = _key(columns, n)
        if key in seen:
            later.append(n)
        seen.add(key)
    return np.array(later, dtype=np.int64)


def _key(columns: Columns, n: int) -> tuple:
    box = () if columns.box is None else tuple(columns.box[n].tolist())
    mask = None if columns.masks is None else columns.masks.counts[n]
    return int(columns.image[n]), int(columns.category[n]), float(columns.score[n]), box, mask


def drop_broken_masks(columns: Columns, problems: dict) -> Columns:
    """Report masks whose runs do not add up to height times width, and leave them out."""
    broken = rle_pixels(columns.masks)[1] != columns.masks.pixels()
    if not broken.any():
        return columns
    where = np.flatnonzero(broken)
    text = "has a mask whose runs do not add up to its size"
    Problem.add(problems, text, columns.index[where], f"{columns.masks[where[0]]!r:.80}")
    return columns.take(np.flatnonzero(~broken))


@dataclass
class Problem:
    """One kind of fault.

    Attributes:
        text: the fault, after "entry N".
        first: index of the first entry that has it.
        example: that entry's value.
        count: entries that have it.
        dropped: whether a lenient reading leaves such entries out.
    """

    text: str
    first: int
    example: str
    count: int = 0
    dropped: bool = True

    @staticmethod
    def add(problems: dict, text: str, indices: np.ndarray, example: str, dropped=True) -> None:
        """Count a fault of the entries ``indices`` (ascending, not empty) in ``problems``."""
        problem = problems.setdefault(text, Problem(text, int(indices[0]), example, 0, dropped))
        problem.count += len(indices)

    def describe(self, name: str, verdict: bool = False) -> str:
        """One sentence, with what a lenient reading did about it if ``verdict``."""
        others = f" ({self.count:,} entries in all)" if self.count > 1 else ""
        end = (": left out." if self.dropped else ": kept.") if verdict else "."
        return f"{name}, entry {self.first}: it {self.text}: {self.example}{others}{end}"
