"""A table of repeat factors by frequency group, for the log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from balms_det.data.repeat_factors import CategoryIncidence


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
