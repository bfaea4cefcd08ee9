"""Class statistics for people: a table by frequency group, a list by class, a picture.

Groups: "r" rare, "c" common, "f" frequent. ``t`` is the repeat threshold of RFS and IRFS.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from balms_det.data.class_stats import ClassStats
from balms_det.data.repeat_factors import CategoryIncidence
from balms_det.utils.files import atomic_path
from balms_det.utils.trust import plot_label, printable

GROUP_NAMES = {"r": "rare", "c": "common", "f": "frequent"}
_COLOURS = {"r": "#d1495b", "c": "#edae49", "f": "#30638e"}


def group_table(stats: ClassStats, thresh: float) -> str:
    """Counts and repeat factors of the rare, common and frequent classes, and of all."""
    groups = np.array(stats.frequency_groups())
    rfs, irfs = stats.repeat_factors(thresh), stats.repeat_factors(thresh, instance_aware=True)
    rows = []
    for label, members in [
        *((name, groups == letter) for letter, name in GROUP_NAMES.items()),
        ("all", np.ones(stats.num_classes, bool)),
    ]:
        images, instances = stats.image_count[members], stats.instance_count[members]
        row = [label, int(members.sum()), int((images == 0).sum())]
        if members.any():
            row += [f"{images.min()}-{images.max()}", int(instances.sum())]
            row += [f"{f[members].mean():.2f} / {f[members].max():.2f}" for f in (rfs, irfs)]
        rows.append(row)
    headers = ["group", "classes", "absent", "images a class", "instances"]
    headers += [f"{sampler}, t={thresh:g}: mean / max" for sampler in ("RFS", "IRFS")]
    return tabulate(rows, headers=headers)


def class_table(stats: ClassStats, thresh: float) -> str:
    """One line a class, scarcest first: counts and repeat factors."""
    rfs, irfs = stats.repeat_factors(thresh), stats.repeat_factors(thresh, instance_aware=True)
    groups = stats.frequency_groups()
    rows = [
        (
            _class_name(stats, c),
            groups[c],
            int(stats.image_count[c]),
            int(stats.instance_count[c]),
            rfs[c],
            irfs[c],
        )
        for c in np.argsort(stats.image_count, kind="stable")
    ]
    headers = ["class", "group", "images", "instances", "RFS", "IRFS"]
    return tabulate(rows, headers=headers, floatfmt=".2f")


def absent_classes(stats: ClassStats, most: int = 20) -> str:
    """Names of the first classes without an image, or "" when there is none."""
    names = ", ".join(_class_name(stats, c) for c in stats.absent[:most])
    more = len(stats.absent) - most
    return f"{names} and {more} more" if more > 0 else names


def _class_name(stats: ClassStats, c: int) -> str:
    return printable(stats.names[c]) if stats.names else str(c)


def plot_long_tail(stats: ClassStats, path: str, title: str) -> None:
    """Draw the images of each class, most frequent first, on a log axis, coloured by group.

    The kind of picture follows from the suffix of ``path``, which is written in one step.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    order = np.argsort(-stats.image_count, kind="stable")
    groups = np.array(stats.frequency_groups())[order]
    counts = stats.image_count[order]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rank = np.arange(stats.num_classes)
    for letter, name in GROUP_NAMES.items():
        own = groups == letter
        label = f"{name} ({own.sum()} classes)"
        axes.bar(rank[own], counts[own], width=1.0, color=_COLOURS[letter], label=label)
    if len(stats.absent):
        start = stats.num_classes - len(stats.absent) - 0.5
        label = f"no image ({len(stats.absent)} classes)"
        axes.axvspan(start, stats.num_classes - 0.5, color="0.9", label=label)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(-0.5, stats.num_classes - 0.5)
    axes.set_xlabel("classes, by number of training images")
    axes.set_ylabel("training images")
    instances = int(stats.instance_count.sum())
    axes.set_title(f"{plot_label(title)}: {stats.num_images:,} images, {instances:,} instances")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _save(figure, path: str) -> None:
    kind = os.path.splitext(path)[1].lstrip(".") or "png"
    with atomic_path(path) as part:
        figure.savefig(part, format=kind, dpi=150)


def factor_table(
    incidence: CategoryIncidence, groups: Sequence[str], factors: np.ndarray, draws: np.ndarray
) -> str:
    """One row a frequency group; an image is in the group of its rarest class.

    Args:
        incidence: which of the N images contains which class.
        groups: "r", "c" or "f" for every class.
        factors: (N,) repeat factors.
        draws: (N,) expected draws an epoch.

    Raises:
        ValueError: an image contains a class that ``groups`` does not have.
    """
    if len(groups) < len(incidence.image_count):
        raise ValueError(
            f"The training images have a class id {len(incidence.image_count) - 1}, but the class "
            f"statistics know {len(groups)} classes: check DATASETS.TRAIN and CLASS_COUNTS."
        )
    rarity = np.array(["fcr".index(group) for group in groups])
    rarest = incidence.max_over_categories(rarity, empty=-1)
    lines = [f"{'rarest class is':<16}{'images':>9}   factor min / mean / max   draws an epoch"]
    for level, name in ((2, "rare"), (1, "common"), (0, "frequent"), (-1, "none")):
        members = rarest == level
        if members.any():
            part, total = factors[members], draws[members].sum(dtype=np.float64)
            spread = f"{part.min():.2f} / {part.mean(dtype=np.float64):.2f} / {part.max():.2f}"
            lines.append(f"{name:<16}{len(part):>9}   {spread:<26}{total:.0f}")
    lines.append(f"{'all':<16}{len(factors):>9}   {'':<26}{draws.sum(dtype=np.float64):.0f}")
    return "\n".join(lines)
