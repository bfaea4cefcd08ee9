"""Boxes of annotations, ``[x, y, width, height]`` in pixels, and what they look like otherwise.

A file with the corners ``[x1, y1, x2, y2]``, or with parts of the image's size, holds boxes that
are possible each for itself. All of them together are not likely, and a warning says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from balms_det.annotations.masks import MAX_COORDINATE
from balms_det.annotations.read import AnnotationFileError

logger = logging.getLogger(__name__)


def check_boxes(
    source: str, boxes: np.ndarray, sizes: np.ndarray, place: Callable[[int], str]
) -> None:
    """Refuse boxes that are none, and :func:`hint_at_boxes`, whose arguments it takes.

    Args:
        place: what to call annotation m, from 0.

    Raises:
        AnnotationFileError: numbers that are not finite or in no image, or a negative size.
    """
    fit = (np.abs(boxes) <= MAX_COORDINATE).all(1) & (boxes[:, 2:] >= 0).all(1)
    if not fit.all():
        wrong = int(fit.argmin())
        raise AnnotationFileError(
            f"{source}: the 'bbox' of {place(wrong)}, [x, y, width, height], must hold numbers "
            f"from -{MAX_COORDINATE} to {MAX_COORDINATE} and no negative size, got "
            f"{boxes[wrong].tolist()}."
        )
    hint_at_boxes(source, boxes, sizes)


def hint_at_boxes(source: str, boxes: np.ndarray, sizes: np.ndarray) -> None:
    """Warn where most boxes are such that other numbers were written than are read.

    Args:
        source: what to call the dataset in a message.
        boxes: (M, 4) x, y, width, height in pixels.
        sizes: (M, 2) height and width of each one's image, in pixels.
    """
    tiny = int((boxes[:, 2:] < 1).any(1).sum())
    if 2 * tiny > len(boxes):
        logger.warning(
            "%s: %d of %d boxes are smaller than a pixel. A box is [x, y, width, height] in "
            "pixels: are these parts of the image's size?",
            *(source, tiny, len(boxes)),
        )
    beyond = boxes[:, :2] + boxes[:, 2:] > sizes[:, ::-1] + 2  # rounded outwards, or a border more
    outside = int(beyond.any(1).sum())
    if 2 * outside > len(boxes):
        logger.warning(
            "%s: %d of %d boxes reach beyond their image. A box is [x, y, width, height] in "
            "pixels: are these the corners [x1, y1, x2, y2]?",
            *(source, outside, len(boxes)),
        )
