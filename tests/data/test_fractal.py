"""Box counting on places whose dimension is known, and on a registered dataset."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from balms_det.modeling.calibration.fractal import dataset_fractal_dimensions, fractal_dimensions


def test_plane_line_and_point():
    rng = np.random.default_rng(0)
    plane, line = rng.random((2, 20000)), rng.random(20000)
    point = np.full(20000, 0.3)
    x = np.concatenate([plane[0], line, point, [0.1, 0.9, 0.5]])
    y = np.concatenate([plane[1], line, point, [0.1, 0.9, 0.5]])
    classes = np.repeat([0, 1, 2, 3], [20000, 20000, 20000, 3])
    found = fractal_dimensions(x, y, classes, num_classes=5, grid_max=16)
    assert found[0] == pytest.approx(2, abs=0.01)
    assert found[1] == pytest.approx(1, abs=0.01)
    # A point has dimension 0, too few instances none: both count as 1, as an absent class does.
    assert found[2:].tolist() == [1, 1, 1]


def test_centres_outside_the_image_are_in_no_cell():
    x = np.array([1.5, -0.2, 2.0, 1.1, 3.0])
    assert fractal_dimensions(x, x, np.zeros(5, int), 1).tolist() == [1.0]


def test_dataset(request):
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 80, (50, 2))
    instances = [
        {"category_id": 1, "bbox": [int(x), int(y), 20, 10], "bbox_mode": BoxMode.XYWH_ABS}
        for x, y in corners
    ]
    crowd = {"category_id": 0, "bbox": [0, 0, 5, 5], "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 1}
    records = [
        {"width": 100, "height": 200, "annotations": [*instances, *[crowd] * 10]},
        {"width": 100, "height": 200},
    ]
    name = "fractal_of_two_images"
    DatasetCatalog.register(name, lambda: records)
    request.addfinalizer(lambda: DatasetCatalog.remove(name))
    centres = (corners + np.array([10, 5])) / [100, 200]
    expected = fractal_dimensions(*centres.T, np.ones(50, int), num_classes=2)
    found = dataset_fractal_dimensions([name], num_classes=2)
    assert found.tolist() == expected.tolist()
    assert found[0] == 1 and found[1] > 1


def test_unknown_dataset():
    with pytest.raises(KeyError, match="no_such_dataset"):
        dataset_fractal_dimensions(["no_such_dataset"], 3)
