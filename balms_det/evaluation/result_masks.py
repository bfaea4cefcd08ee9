"""Entries whose mask does not fill its image: their file was cut, or mended by hand."""

from __future__ import annotations

import numpy as np

from balms_det.data.rle import rle_pixels
from balms_det.evaluation.result_columns import Columns, Problem


def drop_broken_masks(columns: Columns, problems: dict) -> Columns:
    """Report masks whose runs do not add up to height times width, and leave them out."""
    broken = rle_pixels(columns.masks)[1] != columns.masks.pixels()
    if not broken.any():
        return columns
    where = np.flatnonzero(broken)
    text = "has a mask whose runs do not add up to its size"
    Problem.add(problems, text, columns.index[where], f"{columns.masks[where[0]]!r:.80}")
    return columns.take(np.flatnonzero(~broken))
