"""What makes class statistics valid. Symbols as in ``class_stats``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from balms_det.data.class_stats import ClassStats


def as_counts(field: str, values: object) -> np.ndarray:
    """A read-only int64 copy of one-dimensional ``values``.

    Raises:
        ValueError: another shape, a negative number or a fraction.
    """
    given = np.asarray(values)
    if given.ndim != 1:
        raise ValueError(f"ClassStats: {field} must be one-dimensional, got shape {given.shape}.")
    counts = given.astype(np.int64)
    if (counts != given).any() or (counts < 0).any():
        raise ValueError(f"ClassStats: {field} must hold whole numbers that are not negative.")
    counts.setflags(write=False)
    return counts


def check_stats(stats: ClassStats) -> None:
    """Raise ValueError where lengths differ or the counts cannot be."""
    lengths = {
        field: len(values)
        for field in ("image_count", "instance_count", "names", "frequency")
        if (values := getattr(stats, field)) is not None
    }
    if len(set(lengths.values())) != 1 or stats.num_classes == 0:
        raise ValueError(f"ClassStats needs one entry a class, at least one; lengths: {lengths}")
    if stats.num_images < 1:
        raise ValueError(f"ClassStats: num_images must be positive, got {stats.num_images}.")
    for wrong, more_than in (
        (stats.image_count > stats.num_images, f"the dataset has, {stats.num_images}"),
        (stats.image_count > stats.instance_count, "the class has instances"),
    ):
        if wrong.any():
            c = int(wrong.argmax())
            name = f" ({stats.names[c]})" if stats.names else ""
            raise ValueError(
                f"ClassStats: class {c}{name} is in {stats.image_count[c]} images, "
                f"more than {more_than}."
            )
    if not set(stats.frequency or ()) <= {"r", "c", "f"}:
        raise ValueError("ClassStats: frequency labels must be 'r', 'c' or 'f'.")


def check_same_classes(first: ClassStats, second: ClassStats) -> None:
    """Raise ValueError where two datasets list different classes (unnamed ones are let pass)."""
    if first.num_classes != second.num_classes:
        raise ValueError(
            f"Class lists differ: {first.num_classes} and {second.num_classes} classes."
        )
    if first.names is None or second.names is None or first.names == second.names:
        return
    c = next(i for i, (a, b) in enumerate(zip(first.names, second.names)) if a != b)
    raise ValueError(
        f"Class lists differ: class {c} is '{first.names[c]}' in one dataset and "
        f"'{second.names[c]}' in another."
    )
