"""Compressed RLEs of COCO, read without drawing them.

The ``counts`` of an RLE are the lengths of its runs, background first. They are written as numbers
of six-bit characters, five bits and a sign that more follow, low bits first; from the fourth one on
a number is the difference to the run two places before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_CHUNK = 4096


def rle_pixels(masks: Sequence[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of compressed RLEs.

    pycocotools takes broken counts as they are, and may never come back from comparing them.

    Args:
        masks: N compressed RLEs.

    Returns:
        (N,) int64 area, the pixels of the mask, and (N,) int64 total, those of mask and background:
        height x width in a sound RLE, and -1 where the counts are no such numbers.
    """
    starts = range(0, len(masks), _CHUNK)
    parts = [_pixels([_bytes(mask["counts"]) for mask in masks[s : s + _CHUNK]]) for s in starts]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    area, total = zip(*parts)
    return np.concatenate(area), np.concatenate(total)


def runs_fit(masks: Sequence[dict]) -> np.ndarray:
    """(N,) bool: whether the runs of these compressed RLEs add up to their height times width."""
    pixels = np.array([mask["size"][0] * mask["size"][1] for mask in masks], np.int64)
    return rle_pixels(masks)[1] == pixels


def _bytes(counts: str | bytes) -> bytes:
    return counts.encode() if isinstance(counts, str) else counts


def _pixels(counts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    size = len(counts)
    length = np.fromiter(map(len, counts), np.int64, size)
    code = np.frombuffer(b"".join(counts), np.uint8).astype(np.int64) - 48
    mask = np.repeat(np.arange(size), length)  # of every character
    last = code & 32 == 0
    sound = np.bincount(mask, (code < 0) | (code > 63), size) == 0
    filled = length > 0
    sound[filled] &= last[np.cumsum(length)[filled] - 1]  # the number ends with its string
    sound &= filled
    code = np.where(sound[mask], code, 0)
    last = code & 32 == 0
    runs, owner = _numbers(code, last), mask[last]
    first = np.searchsorted(owner, np.arange(size))
    place = np.arange(len(owner)) - first[owner]
    runs = _undo_differences(runs, owner, place)
    area = np.bincount(owner, np.where(place % 2 == 1, runs, 0), size).astype(np.int64)
    total = np.bincount(owner, runs, size).astype(np.int64)
    sound &= np.bincount(owner, runs < 0, size) == 0
    return area, np.where(sound, total, -1)


def _numbers(code: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The signed numbers that end at ``last``."""
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    digits = ends - starts + 1
    shift = 5 * (np.arange(len(code)) - np.repeat(starts, digits))
    values = np.add.reduceat((code & 31) << np.minimum(shift, 50), starts) if len(ends) else ends
    return np.where(code[ends] & 16, values - (1 << np.minimum(5 * digits, 50)), values)


def _undo_differences(runs: np.ndarray, owner: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Runs out of differences: sums over every other number of a mask, the first one aside."""
    chain = 3 * owner + np.where(place == 0, 0, 1 + place % 2)
    order = np.argsort(chain, kind="stable")
    sums = np.cumsum(runs[order])
    begins = np.flatnonzero(np.diff(chain[order], prepend=-1))
    before = np.concatenate([[0], sums[begins[1:] - 1]])[: len(begins)]
    lengths = np.diff(np.append(begins, len(runs)))
    result = np.empty_like(runs)
    result[order] = sums - np.repeat(before, lengths)
    return result
