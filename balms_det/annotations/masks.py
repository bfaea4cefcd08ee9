"""COCO segmentations to masks and back. A mask is (H, W) bool, an RLE a compressed COCO RLE.

pycocotools believes what it is given: it crashes the process on a NaN, and takes any memory for an
outline that is long enough. So whatever comes from a file is checked here before.

The ``counts`` of an RLE are the lengths of its runs, background first. They are written as numbers
of six-bit characters, five bits and a sign that more follow, low bits first; from the fourth one on
a number is the difference to the run two places before.

"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_util

# Larger coordinates, in pixels, are a mistake: no image is as large.
MAX_COORDINATE = 2**20
# In pixels: half a gigabyte while it is drawn.
_LONGEST_OUTLINE = 2**23


def segmentation_to_rle(segmentation: list | dict, height: int, width: int) -> dict:
    """One RLE for a COCO segmentation: polygons, or an RLE that may be uncompressed.

    The counts of a compressed RLE are taken as they are: see :func:`runs_fit`.

    Raises:
        ValueError: an RLE of another image size, or whose runs do not add up to it; a polygon of
            something else than numbers, or with a coordinate that is in no image.
    """
    if not isinstance(segmentation, (list, dict)):
        raise ValueError(f"A segmentation is polygons or an RLE, not {segmentation!r:.80}.")
    if not isinstance(segmentation, dict):
        polygons = [
            polygon.tolist() if hasattr(polygon, "tolist") else polygon for polygon in segmentation
        ]
        check_polygons(polygons, height, width)
        return mask_util.merge(mask_util.frPyObjects(polygons, height, width))
    if tuple(segmentation["size"]) != (height, width):
        raise ValueError(
            f"An RLE mask is of size {tuple(segmentation['size'])} (height, width) in an image of "
            f"{(height, width)}: check the annotation file."
        )
    if isinstance(segmentation["counts"], list):
        _check_runs(segmentation["counts"], height * width)
        return mask_util.frPyObjects(segmentation, height, width)
    if not isinstance(segmentation["counts"], (str, bytes)):
        raise ValueError(f"The counts of an RLE are {segmentation['counts']!r:.80}, no RLE.")
    return segmentation


def check_polygons(polygons: Sequence[list[float]], height: int, width: int) -> None:
    """Raise ValueError for polygons [x1, y1, x2, y2, ...] that cannot be drawn in an image."""
    if not len(polygons):
        raise ValueError("it has no polygon at all.")
    for polygon in polygons:
        _check_points(polygon)
        try:
            fits = math.isfinite(sum(polygon)) and (
                min(polygon) >= -MAX_COORDINATE and max(polygon) <= MAX_COORDINATE
            )
        except (TypeError, OverflowError):
            fits = False
        if not fits:
            raise ValueError(
                f"A polygon must hold numbers from -{MAX_COORDINATE} to {MAX_COORDINATE}, got "
                f"{polygon!r:.80}."
            )
        longest = longest_outline(height, width)
        length = outline_lengths(np.asarray(polygon, np.float64), np.array([len(polygon)]))[0]
        if length > longest:
            raise ValueError(
                f"the outline of a polygon is {length:.0f} pixels long, and an image of "
                f"{(height, width)} (height, width) has room for {longest}: points lie far outside."
            )


def _check_points(polygon: list[float]) -> None:
    if any(isinstance(value, (list, tuple)) for value in polygon):
        raise ValueError(
            f"a polygon is one list [x1, y1, x2, y2, ...], not a list of points: {polygon!r:.80}."
        )
    if len(polygon) < 6:
        box = ", which may be a box: write its four corners" if len(polygon) == 4 else ""
        raise ValueError(f"a polygon needs 3 points, it has {len(polygon)} numbers{box}.")
    if len(polygon) % 2:
        raise ValueError(f"a polygon needs x and y of each point, it has {len(polygon)} numbers.")


def outline_lengths(numbers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Pixels that are walked around polygons, each edge by its longer side.

    Args:
        numbers: x and y by turns of all polygons, one after the other.
        sizes: (N,) how many numbers each polygon has: even, more than none.

    Returns:
        (N,) float64.
    """
    points = numbers.reshape(-1, 2)
    ends = np.cumsum(sizes // 2)
    starts = ends - sizes // 2
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    return np.add.reduceat(np.abs(points[following] - points).max(axis=1), starts)


def longest_outline(height: int, width: int) -> int:
    """The longest outline that is drawn, in pixels: more than any mask of the image has.

    pycocotools keeps every fifth of a pixel of an outline, and counts them in 32 bits.
    """
    return min(4 * (height + 64) * (width + 64), _LONGEST_OUTLINE)


def _check_runs(counts: list[int], pixels: int) -> None:
    whole = all(isinstance(run, int) and run >= 0 for run in counts)
    if not whole or sum(counts) != pixels:
        raise ValueError(
            f"The counts of an RLE must be whole numbers that add up to height times width, "
            f"{pixels}, got {counts!r:.80}."
        )


def mask_to_rle(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))


def rle_to_mask(rle: dict) -> np.ndarray:
    return mask_util.decode(rle).astype(bool)


def rles_overlap(first: dict, second: dict) -> bool:
    """Whether two masks share a pixel; fast, because nothing is decoded."""
    return mask_util.area(mask_util.merge([first, second], intersect=True)) > 0


def mask_to_box(mask: np.ndarray) -> list[int]:
    """[x0, y0, x1, y1] around a mask that is not empty; x1 and y1 are one past the last pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


_CHUNK = 4096
# Of each character less 48: five bits, with a sign in the last character of a number.
_DIGITS = np.array([*range(16), *range(-16, 0), *range(32)], np.int32)
_MOST_DIGITS = 6  # after the first one; nothing of that size is a run


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


def rle_totals(masks: Sequence[dict]) -> np.ndarray:
    """(N,) int64, the pixels of mask and background together, some ten times as fast as
    :func:`rle_pixels`.

    It is the same number where no run is negative, which is not looked at: a total is a weighted
    sum of the numbers that are written, because each one is part of all later runs of its kind.

    Args:
        masks: N compressed RLEs.
    """
    totals = np.empty(len(masks), np.int64)
    for start in range(0, len(masks), _CHUNK):
        counts = [_bytes(mask["counts"]) for mask in masks[start : start + _CHUNK]]
        own = _totals(counts)
        totals[start : start + _CHUNK] = _pixels(counts)[1] if own is None else own
    return totals


def _totals(counts: list[bytes]) -> np.ndarray | None:
    """None where a string is empty, or holds what is no number."""
    length = np.fromiter(map(len, counts), np.int64, len(counts))
    code = np.frombuffer(b"".join(counts), np.uint8) - np.uint8(48)
    last = code < 32  # of a number
    ends = np.cumsum(length)
    if not len(code) or not length.all() or code.max() > 63 or not last[ends - 1].all():
        return None
    number = np.cumsum(last, dtype=np.int32) - last  # place of a character's number among all
    first = number[ends - length]
    size = number[ends - 1] + 1 - first
    # How many runs a number is part of; the first one of a mask is part of itself alone.
    weight = (np.repeat(first + size + 1, length) - number) >> 1
    weight[number == np.repeat(first, length)] = 1
    totals = np.add.reduceat(_DIGITS[code] * weight, ends - length, dtype=np.int64)
    later = np.flatnonzero(~last) + 1  # characters that go on with a number
    if not len(later):
        return totals
    place = np.arange(len(later))
    begins = np.maximum.accumulate(np.where(np.diff(later, prepend=-1) != 1, place, 0))
    digit = place - begins + 1  # 1 for the second character of a number
    if digit.max() > _MOST_DIGITS:
        return None
    # Above, each was counted as if it were the first one.
    added = _DIGITS[code[later]] * weight[later].astype(np.int64) * ((1 << 5 * digit) - 1)
    mask = np.searchsorted(ends, later, side="right")
    return totals + np.bincount(mask, added, len(counts)).astype(np.int64)
