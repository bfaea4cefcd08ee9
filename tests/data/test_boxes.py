"""Boxes that are none are refused, and boxes of other numbers get a hint."""

import logging

import numpy as np
import pytest

from balms_det.annotations.boxes import check_boxes
from balms_det.annotations.masks import longest_outline, outline_lengths
from balms_det.annotations.read import AnnotationFileError

SIZES = np.full((6, 2), (60, 90))
RIGHT = np.array([[10 * k + 20, 5 * k + 10, 15, 20.5] for k in range(6)])
CORNERS = np.hstack([RIGHT[:, :2], RIGHT[:, :2] + RIGHT[:, 2:]])


def warnings(boxes, caplog):
    with caplog.at_level(logging.WARNING):
        check_boxes("a.json", boxes, SIZES, str)
    return [record.getMessage() for record in caplog.records]


def test_boxes_as_they_should_be(caplog):
    assert warnings(RIGHT, caplog) == []


def test_corners_get_a_hint(caplog):
    (message,) = warnings(CORNERS, caplog)
    assert "a.json" in message and "x1, y1, x2, y2" in message


def test_parts_of_the_image_get_a_hint(caplog):
    (message,) = warnings(RIGHT / [90, 60, 90, 60], caplog)
    assert "a.json: 6 of 6 boxes are smaller than a pixel" in message


def test_a_few_odd_ones_get_none(caplog):
    boxes = RIGHT.copy()
    boxes[0, 2], boxes[1, 0] = 0.5, 85
    assert warnings(boxes, caplog) == []


@pytest.mark.parametrize(("column", "value"), [(3, -1), (2, np.nan), (0, np.inf), (1, -(2**21))])
def test_what_is_no_box_is_refused(column, value):
    boxes = RIGHT.copy()
    boxes[4, column] = value
    with pytest.raises(AnnotationFileError, match=r"a\.json: the 'bbox' of number 4, "):
        check_boxes("a.json", boxes, SIZES, "number {}".format)


def test_outlines_are_measured_around():
    square, line = [0, 0, 4, 0, 4, 4, 0, 4], [1, 1, 11, 1, 11, 3]
    numbers = np.array(square + line, np.float64)
    assert outline_lengths(numbers, np.array([8, 6])).tolist() == [16, 10 + 2 + 10]


def test_an_outline_along_every_pixel_is_not_too_long():
    comb = [v for x in range(60) for v in ((x, 0, x, 39) if x % 2 else (x, 39, x, 0))]
    assert outline_lengths(np.array(comb, float), np.array([len(comb)]))[0] < longest_outline(
        40, 60
    )
