"""Fractal dimension of where a class occurs in the image, by box counting (FRACAL, section 3.2).

Symbols: ``K`` classes; ``N`` instances; ``n_c`` instances of class c; ``d`` cells a side of a grid
that is laid over every image. On a grid of d x d cells, class c occupies ``B_c(d)`` of them, over
all images; its dimension is the slope of ``log B_c(d)`` against ``log d``: near 2 for a class that
is found everywhere, 1 for one on a line.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

# With fewer instances than 2 x 2 cells there is no slope to see: the dimension is 1.
MIN_INSTANCES = 4


def fractal_dimensions(
    centre_x: np.ndarray,
    centre_y: np.ndarray,
    classes: np.ndarray,
    num_classes: int,
    grid_max: int = 64,
) -> np.ndarray:
    """Box-counting dimension of each class, (K,) float64, at least 1.

    Only grids with ``d * d <= n_c`` take part in the slope of class c.

    Args:
        centre_x, centre_y: (N,) box centres as shares of the image's width and height, in [0, 1).
        classes: (N,) integers in [0, K).
        num_classes: K.
        grid_max: finest grid; the authors' 64.
    """
    classes = np.asarray(classes, dtype=np.int64)
    count = np.bincount(classes, minlength=num_classes)
    sides = np.arange(1, grid_max + 1)
    occupied = [_occupied(centre_x, centre_y, classes, num_classes, d) for d in sides]
    return np.array(
        [_slope(sides, column, n) for column, n in zip(np.stack(occupied, axis=1), count)]
    )


def dataset_fractal_dimensions(
    names: Sequence[str], num_classes: int, grid_max: int = 64
) -> np.ndarray:
    """Of registered datasets together, as :func:`fractal_dimensions`; crowds are left out.

    Raises:
        KeyError: no such dataset.
    """
    centres, classes = [], []
    for record in itertools.chain.from_iterable(map(DatasetCatalog.get, names)):
        size = record["width"], record["height"]
        for instance in record.get("annotations", ()):
            if instance.get("iscrowd"):
                continue
            box = BoxMode.convert(list(instance["bbox"]), instance["bbox_mode"], BoxMode.XYXY_ABS)
            x0, y0, x1, y1 = box
            centres.append(((x0 + x1) / 2 / size[0], (y0 + y1) / 2 / size[1]))
            classes.append(instance["category_id"])
    x, y = np.array(centres, dtype=np.float64).reshape(-1, 2).T
    return fractal_dimensions(x, y, np.array(classes, dtype=np.int64), num_classes, grid_max)


def _occupied(x, y, classes: np.ndarray, num_classes: int, side: int) -> np.ndarray:
    """Cells of a side x side grid that hold an instance of each class, (K,)."""
    edges = np.arange(side + 1) * (1 / side)
    column = np.searchsorted(edges, x, side="right") - 1
    row = np.searchsorted(edges, y, side="right") - 1
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    seen = np.zeros((num_classes, side, side), dtype=bool)
    seen[classes[inside], row[inside], column[inside]] = True
    return seen.sum(axis=(1, 2))


def _slope(sides: np.ndarray, occupied: np.ndarray, count: int) -> float:
    # A centre outside its image is in no cell, so an occupied count can be 0.
    used = (sides * sides <= count) & (occupied > 0)
    if count < MIN_INSTANCES or used.sum() < 2:
        return 1.0
    slope, _ = np.polyfit(np.log(sides[used]), np.log(occupied[used]), 1)
    return max(float(slope), 1.0)
