"""Files for an evaluation server: written so that they are accepted, and checked.

LVIS takes a json list of ``{"image_id", "category_id", "bbox" (x, y, width, height), "score",
"segmentation" (compressed RLE)}`` with at most 300 entries an image; the 2021 challenge ("fixed")
at most 10,000 a category instead.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from balms_det.evaluation.results.chunks import ResultsError, results_name
from balms_det.evaluation.results.columns import Columns, KnownIds
from balms_det.evaluation.results.faults import Problem
from balms_det.evaluation.results.read import CheckedResults, apply_limits, find_problems, refuse
from balms_det.evaluation.rules import Limits, check_rule, detection_limits
from balms_det.evaluation.runs import evaluable_types
from balms_det.utils.files import atomic_path

_KEYS = {"bbox": "bbox", "segm": "segmentation"}
_CHUNK = 1 << 14


@dataclass(frozen=True)
class Submission:
    """What was written.

    Attributes:
        path: the file.
        entries: its number of detections.
        images: images that have any.
        empty_images: images of the dataset that have none.
        left_out: faults of the predictions and how many entries each of them cost.
    """

    path: Path
    entries: int
    images: int
    empty_images: int
    left_out: list[Problem]


def check_submission(gt: Any, results: Any, rule: str = "default") -> list[Problem]:
    """Everything that is wrong with a file.

    Args:
        gt: the dataset's json (a test set without annotations will do) or its dict.
        results: path of a json, ``.gz`` or ``.zip``, or the list.
        rule: "default" or "fixed".

    Raises:
        FileNotFoundError: no such file.
        ResultsError: there is no list of entries in it, or it is empty.
    """
    known = KnownIds.of(gt)
    checked = _read(known, results)
    if not len(checked.columns) and not checked.problems:
        raise ResultsError(f"{results_name(results)}: the list is empty, nothing to submit.")
    _, over = apply_limits(checked.columns, known, _limits(rule))
    return checked.problems + over


def write_submission(
    gt: Any, results: Any, target: Path, rule: str = "default", *, lenient: bool = False
) -> Submission:
    """Write predictions as a file for a leaderboard: json, or a zip of it.

    The highest scores are kept where there are too many; other keys of the entries are left out;
    images are in the order of their ids, best scores first. Numbers stay as they are.

    Args:
        gt, results, rule: as in :func:`check_submission`.
        target: a path that ends with ``.json`` or ``.zip``.
        lenient: leave bad entries out instead of raising.

    Raises:
        FileNotFoundError, ResultsError: see :func:`check_submission`.
        ValueError: another kind of target.
    """
    target = Path(target)
    if target.suffix not in (".json", ".zip"):
        raise ValueError(f"{target}: a submission is a .json or a .zip.")
    known = KnownIds.of(gt)
    checked = _read(known, results)
    if checked.problems and not lenient:
        refuse(results, checked.problems)
    columns, over = apply_limits(checked.columns, known, _limits(rule))
    if not len(columns):
        raise ResultsError(f"{results_name(results)}: no entry is left, nothing to submit.")
    with atomic_path(target) as part:
        _write(part, target, _encoded(columns, known))
    used = len(np.unique(columns.image))
    empty = len(known.image_ids) - used
    return Submission(target, len(columns), used, empty, checked.problems + over)


def _limits(rule: str) -> Limits:
    check_rule(rule, None)
    return detection_limits("lvis" if rule == "default" else rule)


def _read(known: KnownIds, results: Any) -> CheckedResults:
    keys = [_KEYS[iou_type] for iou_type in evaluable_types(results, lenient=True)]
    return find_problems(results, known, keys, decode=True, copies=True)


def _encoded(columns: Columns, known: KnownIds) -> Iterator[bytes]:
    """The json in pieces."""
    order = np.lexsort((-columns.score, columns.image))
    yield b"["
    for start in range(0, len(order), _CHUNK):
        entries = [_entry(columns, known, n) for n in order[start : start + _CHUNK].tolist()]
        yield (b"," if start else b"") + msgspec.json.encode(entries)[1:-1]
    yield b"]"


def _entry(columns: Columns, known: KnownIds, n: int) -> dict:
    entry = {
        "image_id": known.image_ids[columns.image[n]],
        "category_id": known.category_ids[columns.category[n]],
        "bbox": columns.box[n].tolist(),
        "score": float(columns.score[n]),
    }
    if columns.masks is not None:
        mask = columns.masks[n]
        counts = mask["counts"]
        text = counts.decode() if isinstance(counts, bytes) else counts
        entry["segmentation"] = {"size": list(mask["size"]), "counts": text}
    return entry


def _write(part: Path, target: Path, pieces: Iterator[bytes]) -> None:
    if target.suffix == ".json":
        with part.open("wb") as file:
            file.writelines(pieces)
        return
    inside = zipfile.ZipInfo(f"{target.stem}.json")  # its date is fixed: same content, same file
    inside.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(part, "w") as archive, archive.open(inside, "w", force_zip64=True) as file:
        for piece in pieces:
            file.write(piece)
