"""Read and check results of any framework: the list of detections that COCO and LVIS define.

An entry is ``{"image_id", "category_id", "score", "bbox" (x, y, width, height in pixels) and/or
"segmentation" (compressed RLE)}``. ``N`` entries are kept, in their order.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balms_det.evaluation.detections import best_of_each
from balms_det.evaluation.known_ids import KnownIds
from balms_det.evaluation.result_chunks import ResultsError, result_chunks, results_name
from balms_det.evaluation.result_columns import Columns, ColumnsBuilder, Problem
from balms_det.evaluation.result_duplicates import find_duplicates
from balms_det.evaluation.result_masks import drop_broken_masks
from balms_det.evaluation.result_reader import read_columns

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

    Raises:
        FileNotFoundError: no such file.
        ResultsError: something is wrong (with ``lenient``: there is no list at all).
    """
    checked = find_problems(results, gt, keys, decode=lenient)
    if checked.problems and not lenient:
        refuse(results, checked.problems)
    for problem in checked.problems:
        _logger.warning("%s", problem.describe(results_name(results), verdict=True))
    if not len(checked.columns):
        _report_empty(results_name(results), bool(checked.problems), lenient)
    return checked


def _report_empty(name: str, dropped: bool, lenient: bool) -> None:
    reason = "every entry has a fault" if dropped else "the list is empty"
    if not lenient:
        raise ResultsError(f"{name}: {reason}, there is nothing to evaluate.")
    _logger.warning("%s: %s, no detection is left.", name, reason)


def find_problems(
    results: Any, gt: Any, keys: Sequence[str], *, decode: bool = False, copies: bool = False
) -> CheckedResults:
    """:func:`check_results` that reports everything instead of raising at the first fault.

    With ``decode`` it also checks that the runs of each RLE add up to its size, some seconds a
    million masks; with ``copies`` it reports entries equal to an earlier one, which an evaluation
    keeps, as the official package does: a detector can find a box without area twice.
    """
    known, problems, offset = KnownIds.of(gt), {}, 0
    builder = ColumnsBuilder(known, keys)
    for chunk in result_chunks(results):
        builder.add(read_columns(chunk, offset, known, keys, problems))
        offset += len(chunk)
    columns = find_duplicates(builder.build(), problems, copies)
    if decode and columns.masks is not None:
        columns = drop_broken_masks(columns, problems)
    found = sorted(problems.values(), key=lambda problem: problem.first)
    return CheckedResults(columns, found)


def apply_limits(
    columns: Columns, known: KnownIds, limits: tuple[int, int]
) -> tuple[Columns, list[Problem]]:
    """The highest scores of each image, and of each category; the others are reported.

    Args:
        columns: N entries.
        known: ids of the dataset.
        limits: entries of an image, and of a category, that stay; -1 is no limit.
    """
    problems = {}
    for what, limit in zip(("image", "category"), limits):
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
