"""Curves of AP by frequency group against the strength of a calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from balms_det.evaluation.box_ap import METRICS
from balms_det.files import atomic_path
from balms_det.trust import plot_label

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
