"""A comparison of two sets of results as a table and as a CSV file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from balms_det.evaluation.compare import Comparison, Difference
from balms_det.files import write_atomically
from balms_det.trust import markdown_cell

_COLUMNS = ("name", "group", "images", "ap_a", "ap_b", "difference", "low", "high")


def comparison_table(comparison: Comparison, most: int = 10) -> str:
    """Markdown: the groups, then the ``most`` classes that lose and that gain the most."""
    defined = [row for row in comparison.classes if not math.isnan(row.difference)]
    ranked = sorted(defined, key=lambda row: row.difference)
    ends = ranked if len(ranked) <= 2 * most else [*ranked[:most], *ranked[-most:]]
    clear = sum(row.clear for row in defined)
    return (
        f"{_table(comparison.groups)}\n\n{clear} of {len(defined)} classes differ clearly "
        f"(0 outside of the interval, *). Most changed:\n\n{_table(ends)}"
    )


def _table(rows: Sequence[Difference]) -> str:
    body = [
        (
            *(markdown_cell(row.name), row.group, row.images, _show(row.ap_a), _show(row.ap_b)),
            f"{_show(row.difference, '+')}{'*' if row.clear else ''}",
            "-" if math.isnan(row.low) else f"{row.low:+.1f} to {row.high:+.1f}",
        )
        for row in rows
    ]
    header = ("", "group", "images", "A", "B", "B - A", "interval")
    align = ("left", "left", *["right"] * 5)
    return tabulate(body, header, tablefmt="pipe", colalign=align, disable_numparse=True)


def _show(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.1f}"


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write every group and class as CSV; undefined values are empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for row in (*comparison.groups, *comparison.classes):
        values = (getattr(row, column) for column in _COLUMNS)
        writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in values])
    write_atomically(path, text.getvalue())
