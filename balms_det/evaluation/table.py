"""Tables of results: one row a method, mean and spread over its runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

METRICS = ("AP", "APr", "APc", "APf")


@dataclass(frozen=True)
class Row:
    """A method's runs: for each metric, and for ``seconds``, one value a run (None: undefined)."""

    label: str
    values: dict[str, list[float | None]]

    def as_dict(self) -> dict:
        return {"label": self.label, **self.values}


def read_row(label: str, folders: list[Path], task: str = "segm") -> Row:
    """Collect a method's runs from their output folders.

    Args:
        label: the method's name in the table.
        folders: each holds ``results.json`` and ``step.json`` (its ``seconds``).
        task: "segm" or "bbox".

    Raises:
        KeyError: a run was not evaluated for this task.
    """
    values: dict[str, list[float | None]] = {metric: [] for metric in (*METRICS, "seconds")}
    for folder in folders:
        results = json.loads((folder / "results.json").read_text())
        if task not in results:
            raise KeyError(f"{folder / 'results.json'} has no {task!r} results")
        for metric in METRICS:
            values[metric].append(results[task][metric])
        values["seconds"].append(json.loads((folder / "step.json").read_text())["seconds"])
    return Row(label, values)


def format_table(rows: list[Row]) -> str:
    """A Markdown table; with several runs a row, ``mean ± standard deviation``."""
    body = [
        [
            row.label,
            *(spread(cell, 0 if name == "seconds" else 1) for name, cell in row.values.items()),
        ]
        for row in rows
    ]
    header = ["method", *rows[0].values]
    align = ["left"] + ["right"] * (len(header) - 1)
    return tabulate(body, header, tablefmt="pipe", colalign=align, disable_numparse=True)


def spread(values: Sequence[float | None], digits: int = 1) -> str:
    """The mean of the values that are not None and, of several, ``± standard deviation``."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    mean = f"{statistics.fmean(numbers):.{digits}f}"
    if len(numbers) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(numbers):.{digits}f}"
