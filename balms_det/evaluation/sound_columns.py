"""The quick way from entries to columns, for entries without a fault.

All loops run in C: ``struct`` converts numbers and refuses whatever is none. Entries that do not
pass are read again by ``result_reader``, slowly, to say what is wrong.
"""

from __future__ import annotations

import itertools
import operator
import struct
from collections.abc import Iterable, Sequence

import numpy as np

from balms_det.evaluation.known_ids import KnownIds
from balms_det.evaluation.mask_column import MaskColumn
from balms_det.evaluation.result_columns import Columns

_FAULTS = (LookupError, TypeError, ValueError, OverflowError, struct.error)


def sound_columns(
    entries: Sequence, offset: int, known: KnownIds, keys: Sequence[str]
) -> Columns | None:
    """The columns of entries, as ``result_reader.read_columns``; None if one may have a fault."""
    try:
        image = _ranks(entries, "image_id", known.image_rank, known.image_table)
        category = _ranks(entries, "category_id", known.category_rank, known.category_table)
        score = _numbers(map(operator.itemgetter("score"), entries), len(entries))
        box = _boxes(entries) if "bbox" in keys else None
        masks = _masks(entries, image, known) if "segmentation" in keys else None
        ids = read_ids(entries)
        set(ids or ())  # lists and objects, which are no ids, cannot be in a set
    except _FAULTS:
        return None
    if not np.isfinite(score).all():
        return None
    index = np.arange(offset, offset + len(entries))
    return Columns(index, image, category, score, box, masks, ids)


def read_ids(entries: Sequence[dict]) -> list | None:
    """The optional ids; None where an entry has none."""
    try:
        return list(map(operator.itemgetter("id"), entries))
    except KeyError:
        return None


def finite_boxes(box: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the numbers of boxes (N, 4), and their areas, are finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(box).all(1) & np.isfinite(box[:, 2] * box[:, 3])


def _ranks(entries: Sequence, key: str, rank: dict, table: np.ndarray | None) -> np.ndarray:
    ids = list(map(operator.itemgetter(key), entries))
    if table is not None:
        try:
            ranks = table[np.frombuffer(struct.pack(f"{len(ids)}Q", *ids), np.uint64)]
        except struct.error:
            pass  # 1.0 is the id 1 too, and pandas writes such ids
        else:
            if ranks.size and ranks.min() < 0:
                raise ValueError("an unknown id")
            return ranks
    return np.fromiter(map(rank.__getitem__, ids), np.int64, len(ids))


def _numbers(values: Iterable, size: int) -> np.ndarray:
    return np.frombuffer(struct.pack(f"{size}d", *values))


def _boxes(entries: Sequence) -> np.ndarray:
    values = list(map(operator.itemgetter("bbox"), entries))
    if not set(map(len, values)) <= {4}:
        raise ValueError("a box without 4 numbers")
    box = _numbers(itertools.chain.from_iterable(values), 4 * len(values)).reshape(-1, 4)
    if not finite_boxes(box).all() or (box[:, 2:] < 0).any():
        raise ValueError("a box that is none")
    return box


def _masks(entries: Sequence, image: np.ndarray, known: KnownIds) -> MaskColumn:
    values = list(map(operator.itemgetter("segmentation"), entries))
    counts = list(map(operator.itemgetter("counts"), values))
    if not set(map(type, counts)) <= {str, bytes}:
        raise ValueError("no compressed RLE")
    heights, widths = zip(*map(operator.itemgetter("size"), values), strict=True)
    pack, expected = struct.Struct(f"{len(counts)}q").pack, known.sizes[image].T
    if pack(*heights) != expected[0].tobytes() or pack(*widths) != expected[1].tobytes():
        raise ValueError("a mask of another size")
    return MaskColumn(counts, image, known.size_lists)
