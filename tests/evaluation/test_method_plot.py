"""The picture of a sweep."""

import cv2

from balms_det.evaluation.tables import METRICS, Row, draw_methods


def test_every_method_has_a_line(tmp_path):
    rows = [
        Row("three seeds", {metric: [1.0, 2.0, 3.0] for metric in METRICS}),
        Row("one failed", {metric: [1.0, None] for metric in METRICS}),
        Row("all failed", {metric: [None, None] for metric in METRICS}),
    ]
    draw_methods(rows, tmp_path / "few.png", title="methods")
    draw_methods(rows * 5, tmp_path / "many.jpg", title="methods")
    few, many = (cv2.imread(str(tmp_path / name)) for name in ("few.png", "many.jpg"))
    assert many.shape[0] > few.shape[0] + 12 * 15
    assert few.std() > 10  # something is drawn
