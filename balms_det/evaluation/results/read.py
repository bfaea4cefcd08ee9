"""Read and check results of any framework: the list of detections that COCO and LVIS define.

An entry is ``{"image_id", "category_id", "score", "bbox" (x, y, width, height in pixels) and/or
"segmentation" (compressed RLE)}``. ``N`` entries are kept, in their order.

the others are read.

It takes results without a fault that have the detections of an image in a row, as frameworks write
them. All others have to be read as a whole first: :class:`ReadWhole`.

"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balms_det.evaluation.detections import Detections, best_of_each, limited_detections
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.results.chunks import ResultsError, result_chunks, results_name
from balms_det.evaluation.results.columns import Columns, ColumnsBuilder, KnownIds, sound_columns
from balms_det.evaluation.results.faults import (
    Problem,
    _ChunkReader,
    drop_broken_masks,
    find_duplicates,
)
from balms_det.evaluation.rules import Limits

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CheckedResults:
    """Results without a fault.

    Attributes:
        columns: the N entries that are kept.
        problems: what was wrong with the others.
    """

    columns: Columns
    problems: list[Problem]


def check_results(
    results: Any,
    gt: Any,
    keys: Sequence[str] = ("bbox",),
    *,
    lenient: bool = False,
    unlisted: bool = False,
) -> CheckedResults:
    """Read results and check every entry.

    Refused are: a list that is empty or none; an entry that is no object or lacks a key; an image
    or category that the dataset does not list; a score, or a box, that is no finite number; a box
    of negative size; a mask that is no compressed RLE or not of its image's size; ids that are
    there twice (ids are optional).

    Args:
        results: a list of entries, or the path of its json (``.gz``, ``.zip`` too).
        gt: the dataset: path of its json, the loaded dict, or anything with ``source``,
            ``image_ids``, ``sizes`` and ``category_ids`` (``GroundTruth``).
        keys: "bbox", "segmentation" or both: what an entry needs besides ids and score. A missing
            box is taken from the mask.
        lenient: leave bad entries out, with a warning each kind, instead of raising. Masks whose
            runs do not add up to their size are found then too; a strict evaluation meets them
            later.
        unlisted: keep entries whose only fault is a category that the dataset does not list, with
            the rank -1: in the official package they use up a place within the limit of an image.

    Raises:
        FileNotFoundError: no such file.
        ResultsError: something is wrong (with ``lenient``: there is no list at all).
    """
    checked = find_problems(results, gt, keys, decode=lenient, unlisted=unlisted)
    if checked.problems and not lenient:
        refuse(results, checked.problems)
    for problem in checked.problems:
        _logger.warning("%s", problem.describe(results_name(results), verdict=True))
    if not (checked.columns.category >= 0).any():
        _report_empty(results_name(results), bool(checked.problems), lenient)
    return checked


def _report_empty(name: str, dropped: bool, lenient: bool) -> None:
    reason = "every entry has a fault" if dropped else "the list is empty"
    if not lenient:
        raise ResultsError(f"{name}: {reason}, there is nothing to evaluate.")
    _logger.warning("%s: %s, no detection is left.", name, reason)


def find_problems(
    results: Any,
    gt: Any,
    keys: Sequence[str],
    *,
    decode: bool = False,
    copies: bool = False,
    unlisted: bool = False,
) -> CheckedResults:
    """:func:`check_results` that reports everything instead of raising at the first fault.

    With ``decode`` it also checks that the runs of each RLE add up to its size, some seconds a
    million masks; with ``copies`` it reports entries equal to an earlier one, which an evaluation
    keeps, as the official package does: a detector can find a box without area twice. ``unlisted``
    is that of :func:`check_results`.
    """
    known, problems, offset = KnownIds.of(gt), {}, 0
    builder = ColumnsBuilder(known, keys)
    for chunk in result_chunks(results):
        builder.add(read_columns(chunk, offset, known, keys, problems, unlisted))
        offset += len(chunk)
    columns = find_duplicates(builder.build(), problems, copies)
    if decode and columns.masks is not None:
        columns = drop_broken_masks(columns, problems)
    found = sorted(problems.values(), key=lambda problem: problem.first)
    return CheckedResults(columns, found)


def apply_limits(
    columns: Columns, known: KnownIds, limits: Limits
) -> tuple[Columns, list[Problem]]:
    """The highest scores of each image, and of each category; the others are reported.

    Args:
        columns: N entries.
        known: ids of the dataset.
        limits: entries of an image, and of a category, that stay.
    """
    problems = {}
    for what, limit in (("image", limits.per_image), ("category", limits.per_category)):
        columns = _limit(columns, what, getattr(known, f"{what}_ids"), limit, problems)
    return columns, list(problems.values())


def _limit(columns: Columns, what: str, ids: list, limit: int, problems: dict) -> Columns:
    group = getattr(columns, what)
    kept = best_of_each(group, columns.score, limit)
    if len(kept) == len(columns):
        return columns
    over = np.setdiff1d(np.arange(len(columns)), kept)
    counts = np.bincount(group)
    worst = int(counts.argmax())
    text = f"is beyond the {limit:,} highest scores of its {what}"
    example = f"{what} {ids[worst]!r} has {counts[worst]:,} entries"
    Problem.add(problems, text, columns.index[over], example)
    return columns.take(kept)


def refuse(results: Any, problems: list[Problem]) -> None:
    """Raise the :class:`ResultsError` of these faults, of which there is one at least."""
    more = f" {len(problems) - 1} more kinds of faults were found." if len(problems) > 1 else ""
    raise ResultsError(
        f"{problems[0].describe(results_name(results))}{more} lenient=True (--lenient) leaves such "
        "entries out; tools/make_submission.py lists all of them."
    )


def read_detections(
    results: Any, truth: GroundTruth, iou_type: str, lenient: bool = False
) -> Detections:
    """Read and check results.

    Boxes are evaluated by their box alone and masks by their mask alone, its area included, as
    Detectron2 does it. (The official package takes the area of the *box* for a mask whose entry has
    a box too.) A box that is missing is the one around the mask.

    Args:
        results: path of a json (``.gz`` and ``.zip`` too), or its list: ``[{"image_id",
            "category_id", "score", "bbox" (x, y, width, height) and/or "segmentation" (compressed
            RLE)}]``.
        truth: what they are evaluated on.
        iou_type: "bbox" or "segm".
        lenient: leave bad entries out, with a warning, instead of refusing them. Those of unlisted
            categories stay until the limits are applied, with the category -1.

    Raises:
        FileNotFoundError, ResultsError: see ``results_file.check_results``.
    """
    key = "bbox" if iou_type == "bbox" else "segmentation"
    columns = check_results(results, truth, [key], lenient=lenient, unlisted=lenient).columns
    return Detections(columns.image, columns.category, columns.score, columns.box, columns.masks)


# Entries that are looked at together, about. Their objects stay in the processor's cache between
# one look and the next, which is worth a tenth of the whole time.
_PIECE = 1 << 11
_PART = 1 << 16  # entries that are matched together, about
_MOST_OF_AN_IMAGE = 1 << 14
_KEYS = ("id", "image_id", "category_id", "score")  # and a box or a mask


class ReadWhole(Exception):
    """These results cannot be evaluated in parts."""


def result_parts(
    results: Any, truth: GroundTruth, iou_type: str, limits: Limits
) -> Iterator[Detections]:
    """The detections that count of each image (``limited_detections``), with areas.

    Args:
        results: a list of entries, or the path of its json.
        truth: what they are evaluated on.
        iou_type: "bbox" or "segm".
        limits: how many count of an image, or of a category on an image.

    Yields:
        Detections of some images, in the order of the results; no image twice.

    Raises:
        ReadWhole: an entry may have a fault, detections of an image are not in a row, or there are
            none.
        BrokenMaskError: a mask whose RLE cannot be read.
        FileNotFoundError, ResultsError: see ``result_chunks``.
    """
    key = "bbox" if iou_type == "bbox" else "segmentation"
    reader = _PartReader(truth, [key], limits)
    gathered, size = [], 0
    in_memory = isinstance(results, (list, tuple))
    # A list is cut here alone: to cut it into chunks before would copy it twice.
    chunks = [results] if in_memory else result_chunks(results, (*_KEYS, key))
    for piece in _whole_images(chunks):
        gathered.append(reader.read(piece))
        size += len(piece)
        if size >= _PART:
            yield Detections.joined(gathered)
            gathered, size = [], 0
    reader.finish()
    if gathered:
        yield Detections.joined(gathered)


class _PartReader:
    """Reads pieces of results; each has all entries of its images."""

    def __init__(self, truth: GroundTruth, keys: list[str], limits: Limits) -> None:
        self._truth, self._known = truth, KnownIds.of(truth)
        self._keys, self._limits = keys, limits
        self._seen: set[int] = set()
        self._entries = 0
        self._ids: list | None = []  # None: not all entries have one, so they mean nothing

    def read(self, piece: Sequence) -> Detections:
        columns = sound_columns(piece, self._entries, self._known, self._keys)
        if columns is None:
            raise ReadWhole
        self._entries += len(piece)
        self._see(columns)
        detections = Detections(
            columns.image, columns.category, columns.score, columns.box, columns.masks
        )
        limited = limited_detections(self._truth, detections, self._limits)
        return limited.part(slice(None)).with_area(self._truth.coco)

    def _see(self, columns: Columns) -> None:
        image = columns.image
        firsts = np.flatnonzero(image[1:] != image[:-1]) + 1
        images = [int(image[0]), *image[firsts].tolist()]
        if len(set(images)) < len(images) or not self._seen.isdisjoint(images):
            raise ReadWhole
        self._seen.update(images)
        if columns.ids is None:
            self._ids = None
        elif self._ids is not None:
            self._ids += columns.ids

    def finish(self) -> None:
        if not self._entries or (self._ids and len(set(self._ids)) < self._entries):
            raise ReadWhole


def _whole_images(chunks: Iterable[Sequence]) -> Iterator[Sequence]:
    """Pieces of the entries in these chunks that end where the image changes."""
    rest: list = []
    for chunk in chunks:
        entries, start = [*rest, *chunk] if rest else chunk, 0
        while (end := _image_end(entries, start + _PIECE)) < len(entries):
            yield entries[start:end]
            start = end
        rest = entries[start:]
    if rest:
        yield rest


def _image_end(entries: Sequence, start: int) -> int:
    """The first place from ``start`` on whose entry has another image than the one before it, if
    the entries of an image are in a row."""
    if start >= len(entries):
        return start
    try:
        image = entries[start - 1]["image_id"]
        end = bisect.bisect(entries, False, start, key=lambda entry: entry["image_id"] != image)
    except (LookupError, TypeError, ValueError):
        raise ReadWhole from None
    if end - start > _MOST_OF_AN_IMAGE:
        raise ReadWhole
    return end


def read_columns(
    entries: Sequence,
    offset: int,
    known: KnownIds,
    keys: Sequence[str],
    problems: dict,
    unlisted: bool = False,
) -> Columns:
    """The good ones of a chunk of entries; ``problems`` gets the others.

    Args:
        entries: a chunk of the results.
        offset: place of its first entry in the results.
        known: ids of the dataset.
        keys: "bbox" and/or "segmentation".
        problems: fault text to :class:`Problem`, added to.
        unlisted: keep entries whose only fault is a category that the dataset does not list; their
            category is -1.
    """
    sound = sound_columns(entries, offset, known, keys)
    if sound is not None:
        return sound
    reader = _ChunkReader(entries, offset, problems)
    image = reader.ranks("image_id", known.image_rank)
    category = reader.ranks("category_id", known.category_rank, drop=not unlisted)
    score = reader.numbers("score", reader.values("score"))
    masks = reader.masks(image, known) if "segmentation" in keys else None
    box = reader.boxes() if "bbox" in keys else None
    ids = reader.ids()
    index = np.arange(offset, offset + len(entries))
    columns = Columns(index, image, category, score, box, masks, ids)
    return columns.take(np.flatnonzero(reader.good))
