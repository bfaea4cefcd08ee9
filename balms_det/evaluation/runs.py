"""Evaluate several results files of one dataset (seeds of a method): mean and spread."""

from __future__ import annotations

import csv
import io
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from balms_det.evaluation.lvis import evaluate_lvis
from balms_det.evaluation.metrics import LVISResult
from balms_det.evaluation.results.chunks import ResultsError, result_chunks, results_name
from balms_det.utils.files import write_atomically
from balms_det.utils.trust import markdown_cell

_TABLE_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


def evaluable_types(results: Any, *, lenient: bool = False) -> list[str]:
    """["bbox", "segm"] where entries of the results have masks, else ["bbox"].

    Args:
        results: a list of entries or the path of its json; every entry is looked at.
        lenient: allow that some entries have a mask and others none.

    Raises:
        FileNotFoundError, ResultsError: see ``result_chunks``; or only some entries have a mask.
    """
    firsts: dict[bool, int] = {}  # the first entry with a mask, and the first one without
    place = 0
    for chunk in result_chunks(results, ("segmentation",), raw=True):
        for has_mask in (True, False):
            if has_mask not in firsts:
                own = (n for n, entry in enumerate(chunk) if _has_mask(entry) == has_mask)
                first = next(own, None)
                if first is not None:
                    firsts[has_mask] = place + first
        place += len(chunk)
    if len(firsts) == 2 and not lenient:
        raise ResultsError(
            f"{results_name(results)}, entry {firsts[False]}: it has no 'segmentation', and entry "
            f"{firsts[True]} has one. iou_type='bbox' (--iou-type bbox) evaluates boxes alone, "
            "lenient=True (--lenient) leaves such entries out."
        )
    return ["bbox", "segm"] if True in firsts else ["bbox"]


def _has_mask(entry: Any) -> bool:
    return isinstance(entry, dict) and "segmentation" in entry


def common_types(runs: Sequence[Any], *, lenient: bool = False) -> list[str]:
    """:func:`evaluable_types` of several results, which have to be the same.

    Raises:
        FileNotFoundError, ResultsError: as there; or some of them have masks and others none.
    """
    kinds = [evaluable_types(results, lenient=lenient) for results in runs]
    for results, own in zip(runs, kinds):
        if own != kinds[0]:
            with_masks, without = (runs[0], results) if "segm" in kinds[0] else (results, runs[0])
            raise ResultsError(
                f"{results_name(with_masks)} has masks and {results_name(without)} has none: say "
                "by --iou-type bbox that boxes alone are evaluated."
            )
    return kinds[0]


def short_labels(paths: Sequence[str]) -> list[str]:
    """What tells paths apart: the parts that all begin or end with are left out."""
    parts = [Path(path).parts for path in paths]
    if len(set(parts)) == 1:
        return [str(path) for path in paths]
    begin = _common(parts)
    end = _common([own[:begin:-1] for own in parts])  # leaves a part of each
    return ["/".join(own[begin : len(own) - end]) for own in parts]


def _common(parts: Sequence[Sequence[str]]) -> int:
    """How many leading parts are the same in all."""
    same = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts))
    return sum(1 for _ in same)


def evaluate_runs(gt: Any, runs: Sequence[Any], iou_type: str, **options) -> list[LVISResult]:
    """``evaluate_lvis`` of each of the results, with the same options."""
    return [evaluate_lvis(gt, results, iou_type, **options) for results in runs]


def runs_table(labels: Sequence[str], results: Sequence[LVISResult]) -> str:
    """Markdown: a row a run and, of several runs, one with mean ± standard deviation; percent."""
    columns = {name: _percents(results, name) for name in _TABLE_METRICS}
    body = [
        [markdown_cell(label), *(spread([values[n]]) for values in columns.values())]
        for n, label in enumerate(labels)
    ]
    if len(results) > 1:
        body.append([f"{len(results)} runs", *(spread(values) for values in columns.values())])
    align = ["left"] + ["right"] * len(columns)
    header = ["", *columns]
    return tabulate(body, header, tablefmt="pipe", colalign=align, disable_numparse=True)


def write_runs(folder: Path, labels: Sequence[str], results: Sequence[LVISResult]) -> list[Path]:
    """Write ``metrics_<iou_type>.json`` and ``per_class_<iou_type>.csv``; percent.

    The json has, for each metric, the values of the runs, their mean and standard deviation (null
    where undefined); the CSV has a row a class, with the means over the runs.

    Returns:
        The paths of the two.
    """
    iou_type = results[0].iou_type
    metrics = {}
    for name in results[0].metrics:
        values = _percents(results, name)
        metrics[name] = {"values": values, **_moments(values)}
    json_path, csv_path = (
        folder / f"metrics_{iou_type}.json",
        folder / f"per_class_{iou_type}.csv",
    )
    content = {"results": list(labels), "rule": results[0].rule, "max_dets": results[0].max_dets}
    content["metrics"] = metrics
    write_atomically(json_path, json.dumps(content, indent=1))
    write_atomically(csv_path, _per_class(results))
    return [json_path, csv_path]


def _percents(results: Sequence[LVISResult], name: str) -> list[float | None]:
    return [_percent(result.metrics[name]) for result in results]


def _percent(value: float) -> float | None:
    return 100 * value if value >= 0 else None


def _moments(values: Sequence[float | None]) -> dict[str, float | None]:
    numbers = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(numbers) if numbers else None,
        "std": statistics.stdev(numbers) if len(numbers) > 1 else None,
    }


def _per_class(results: Sequence[LVISResult]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    names = ("id", "name", "frequency", "num_images", "num_instances")
    writer.writerow([*names, "num_detections", "ap", "ap_std", "ap50", "ap75"])
    for runs in zip(*(result.per_category for result in results)):
        ap = _moments([_percent(run.ap) for run in runs])
        others = [_moments([_percent(run.ap50) for run in runs])["mean"]]
        others += [_moments([_percent(run.ap75) for run in runs])["mean"]]
        detections = statistics.fmean(run.num_detections for run in runs)
        fixed = [getattr(runs[0], name) for name in names]
        writer.writerow([*fixed, f"{detections:g}", ap["mean"], ap["std"], *others])
    return text.getvalue()


def spread(values: Sequence[float | None], digits: int = 1) -> str:
    """The mean of the values that are not None and, of several, ``± standard deviation``."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    mean = f"{statistics.fmean(numbers):.{digits}f}"
    if len(numbers) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(numbers):.{digits}f}"
