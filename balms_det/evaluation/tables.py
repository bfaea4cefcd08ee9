"""Tables of results: one row a method, mean and spread over its runs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from balms_det.evaluation.runs import spread
from balms_det.utils.files import atomic_path
from balms_det.utils.trust import plot_label

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


COLOURS = {"AP": "black", "APr": "#d1495b", "APc": "#edae49", "APf": "#30638e"}
_COLUMNS = 3

Curve = Sequence[tuple[float, Mapping[str, float]]]


def draw_strength_curves(
    curves: Mapping[str, Curve], path: Path, *, title: str, chosen: tuple[str, float]
) -> None:
    """Draw a panel a calibration; the chosen strength is marked.

    Args:
        curves: name to ``[(strength, {metric: percent})]``, in any order; strength 0 is the model
            as it is and shall be in each.
        path: picture to write; its suffix says which kind.
        title: above all panels.
        chosen: name and strength of the choice.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(curves))
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(4 * columns, 3.1 * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for panel, (name, curve) in zip(panels, curves.items()):
        _draw(panel, name, sorted(curve, key=lambda point: point[0]), chosen)
    for panel in panels[len(curves) :]:
        panel.axis("off")
    for panel in panels[::columns]:
        panel.set_ylabel("box AP, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(METRICS), frameon=False)
    figure.suptitle(plot_label(title))
    with atomic_path(path) as part:
        figure.savefig(part, format=path.suffix.lstrip(".") or "png", dpi=120)


def _draw(panel, name: str, curve: Curve, chosen: tuple[str, float]) -> None:
    strengths = [strength for strength, _ in curve]
    for metric in METRICS:
        values = [metrics[metric] for _, metrics in curve]
        panel.plot(strengths, values, color=COLOURS[metric], marker="o", ms=3.5, label=metric)
    panel.axvline(0, color="0.8", lw=0.8, zorder=0)
    if chosen[0] == name:
        panel.axvline(chosen[1], color="0.3", ls="--", lw=1, zorder=0)
        panel.set_title(f"{name}, chosen: {chosen[1]:g}", fontweight="bold")
    else:
        panel.set_title(name)
    panel.set_xlabel("strength")
    panel.spines[["top", "right"]].set_visible(False)
