"""Do the runs of a compressed RLE fill its image? A file that was cut or mended may not.

COCO's compression: runs of background and foreground, column by column, alternate. Of the fourth
run on, the difference to the run two places before is written. A number is written in groups of
five bits, lowest first, each in a character from "0" (48) on; a sixth bit says that more follow,
and the fifth bit of the last group is the sign.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from balms_det.evaluation.result_columns import Columns, Problem

_CHUNK = 1 << 12


def drop_broken_masks(columns: Columns, problems: dict) -> Columns:
    """Report masks whose runs do not add up to height times width, and leave them out."""
    broken = []
    for start in range(0, len(columns), _CHUNK):
        masks = columns.masks[start : start + _CHUNK]
        pixels = np.array([mask["size"][0] * mask["size"][1] for mask in masks], np.int64)
        broken.append(run_totals([mask["counts"] for mask in masks]) != pixels)
    where = np.flatnonzero(np.concatenate([np.zeros(0, bool), *broken]))
    if not len(where):
        return columns
    text = "has a mask whose runs do not add up to its size"
    Problem.add(problems, text, columns.index[where], f"{columns.masks[where[0]]!r:.80}")
    return columns.take(np.setdiff1d(np.arange(len(columns)), where))


def run_totals(counts: Sequence[str | bytes]) -> np.ndarray:
    """(N,) int64, pixels of all runs of each RLE; -1 where its last number is cut off."""
    texts = [text if isinstance(text, bytes) else text.encode() for text in counts]
    lengths = np.array([len(text) for text in texts])
    if not lengths.sum():
        return np.zeros(len(texts), np.int64)
    code = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    row = np.repeat(np.arange(len(texts)), lengths)
    more = (code & 32) > 0
    last = ~more
    last[np.cumsum(lengths)[lengths > 0] - 1] = True  # a number ends with its RLE at the latest
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    group = np.arange(len(code)) - np.repeat(starts, np.diff(np.append(starts, len(code))))
    shift = np.minimum(5 * group, 55)
    value = (code & 31) << shift
    value -= np.where(last & ((code & 16) > 0), np.int64(32) << shift, 0)
    numbers, owner = np.add.reduceat(value, starts), row[starts]
    # Written as a difference, a number is in its run and in every second run after it.
    size = np.bincount(owner, minlength=len(texts))
    place = np.arange(len(owner)) - (np.cumsum(size) - size)[owner]
    times = np.where(place > 0, (size[owner] - 1 - place) // 2 + 1, 1)
    totals = np.zeros(len(texts), np.int64)
    np.add.at(totals, owner, numbers * times)
    totals[row[last & more]] = -1
    totals[np.unique(row[(code < 0) | (code > 63)])] = -1
    return totals
