"""Entries of results that are there twice."""

from __future__ import annotations

import numpy as np

from balms_det.evaluation.result_columns import Columns, Problem

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
