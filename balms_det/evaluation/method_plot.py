"""A picture of many methods: AP by frequency group, mean and spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from balms_det.evaluation.strength_curves import COLOURS
from balms_det.evaluation.table import METRICS, Row
from balms_det.files import atomic_path

_MARKERS = {"AP": "D", "APr": "o", "APc": "o", "APf": "o"}


def draw_methods(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Draw a line a method, the first at the top; bars are the standard deviation of its seeds.

    Args:
        rows: methods; what is undefined is not drawn.
        path: picture to write; its suffix says which kind.
        title: above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.4 + 0.23 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for metric in METRICS:
        points = [(y, _known(row, metric)) for y, row in enumerate(rows)]
        points = [(y, values) for y, values in points if values]
        panel.errorbar(
            [statistics.fmean(values) for _, values in points],
            [y for y, _ in points],
            xerr=[statistics.stdev(v) if len(v) > 1 else 0.0 for _, v in points],
            fmt=_MARKERS[metric],
            ms=5,
            color=COLOURS[metric],
            elinewidth=1,
            alpha=0.9,
            label=metric,
        )
    panel.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=8)
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.set_xlim(left=0)
    panel.set_xlabel("box AP, %")
    panel.grid(axis="y", color="0.9", lw=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(METRICS), frameon=False)
    panel.set_title(title, fontsize=10)
    with atomic_path(path) as part:
        figure.savefig(part, format=Path(path).suffix.lstrip(".") or "png", dpi=100)


def _known(row: Row, metric: str) -> list[float]:
    return [value for value in row.values[metric] if value is not None]
