"""A chunk of results into columns; the entries that have a fault are reported and left out."""

from __future__ import annotations

import itertools
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from balms_det.evaluation.known_ids import KnownIds
from balms_det.evaluation.mask_column import MaskColumn
from balms_det.evaluation.result_columns import Columns, Problem
from balms_det.evaluation.sound_columns import finite_boxes, read_ids, sound_columns

_MISSING = object()
_MAX_SIDE = 2**31
_EMPTY_RLE = {"size": (0, 0), "counts": ""}


def read_columns(
    entries: Sequence, offset: int, known: KnownIds, keys: Sequence[str], problems: dict
) -> Columns:
    """The good ones of a chunk of entries; ``problems`` gets the others.

    Args:
        entries: a chunk of the results.
        offset: place of its first entry in the results.
        known: ids of the dataset.
        keys: "bbox" and/or "segmentation".
        problems: fault text to :class:`Problem`, added to.
    """
    sound = sound_columns(entries, offset, known, keys)
    if sound is not None:
        return sound
    reader = _ChunkReader(entries, offset, problems)
    image = reader.ranks("image_id", known.image_rank)
    category = reader.ranks("category_id", known.category_rank)
    score = reader.numbers("score", reader.values("score"))
    masks = reader.masks(image, known) if "segmentation" in keys else None
    box = reader.boxes() if "bbox" in keys else None
    ids = reader.ids()
    index = np.arange(offset, offset + len(entries))
    columns = Columns(index, image, category, score, box, masks, ids)
    return columns.take(np.flatnonzero(reader.good))


class _ChunkReader:
    """Reads columns of some entries; ``good`` says which entries have had no fault so far."""

    def __init__(self, entries: Sequence, offset: int, problems: dict) -> None:
        self.entries, self.offset, self.problems = entries, offset, problems
        self.good = np.ones(len(entries), bool)
        objects = _each(entries, lambda entry: isinstance(entry, dict))
        self.report("is not an object", ~objects, entries)
        self.entries = _only(objects, entries, {})

    def report(self, text: str, bad: np.ndarray, values: Sequence) -> None:
        """Count a fault of the ``bad`` entries that had none before."""
        where = np.flatnonzero(bad & self.good)
        if len(where):
            example = values[where[0]]
            shown = "" if example is _MISSING else f"{example!r:.80}"
            Problem.add(self.problems, text, where + self.offset, shown)
            self.good[where] = False

    def values(self, key: str) -> list:
        """The values of a key."""
        values = [entry.get(key, _MISSING) for entry in self.entries]
        missing = _each(values, lambda value: value is _MISSING)
        self.report(f"has no '{key}'", missing, [sorted(entry, key=str) for entry in self.entries])
        return values

    def ranks(self, key: str, rank: dict) -> np.ndarray:
        values = self.values(key)
        ranks = np.fromiter((_rank(rank, value) for value in values), np.int64, len(values))
        self.report(f"has an {key} that the dataset does not list", ranks < 0, values)
        return np.maximum(ranks, 0)

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
