"""Boundaries of masks against the definition, with OpenCV's erosion."""

import cv2
import numpy as np
import pytest
from lvis_cases import Case

from balms_det.data.masks import mask_to_rle, rle_to_mask
from balms_det.evaluation import evaluate_lvis
from balms_det.evaluation.boundary import boundary_width, rle_boundary


def reference(mask, dilation):
    """Erode in a frame of background with a 3 x 3 square, and take what went away."""
    steps = max(1, round(dilation * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)))
    framed = np.pad(mask.astype(np.uint8), 1)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=steps)[1:-1, 1:-1]
    return mask & (eroded == 0)


def random_mask(generator, shape):
    small = generator.random((shape[0] // 10 + 1, shape[1] // 10 + 1)) < 0.7
    return np.kron(small, np.ones((10, 10), bool))[: shape[0], : shape[1]]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dilation", [0.001, 0.02, 0.1])
def test_equals_repeated_erosion(seed, dilation):
    generator = np.random.default_rng(seed)
    mask = random_mask(generator, generator.integers(1, 130, 2))
    boundary = rle_to_mask(rle_boundary(mask_to_rle(mask), dilation))
    assert np.array_equal(boundary, reference(mask, dilation))


def test_the_border_of_the_image_is_contour():
    mask = np.ones((30, 40), bool)  # d = 1
    boundary = rle_to_mask(rle_boundary(mask_to_rle(mask)))
    assert boundary.sum() == 2 * 40 + 2 * 28
    assert not boundary[1:-1, 1:-1].any()


def test_an_empty_mask_has_no_boundary():
    empty = mask_to_rle(np.zeros((9, 9), bool))
    assert not rle_to_mask(rle_boundary(empty)).any()


def test_width_is_two_percent_of_the_diagonal_and_at_least_one():
    assert boundary_width(300, 400) == 10
    assert boundary_width(5, 5) == 1


def test_metrics_take_the_smaller_iou():
    size = 300
    truth_mask, detected = np.zeros((2, size, size), bool)
    truth_mask[50:250, 50:250] = True
    detected[44:256, 44:256] = True  # mask IoU 0.89; boundaries of 8 pixels share little
    image = {"id": 1, "height": size, "width": size}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [50, 50, 200, 200]}
    annotation.update(area=40000, segmentation=mask_to_rle(truth_mask))
    truth = {
        "images": [image],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [annotation],
    }
    result = {"image_id": 1, "category_id": 1, "score": 1, "segmentation": mask_to_rle(detected)}
    assert evaluate_lvis(truth, [result]).metrics["AP75"] == pytest.approx(1)
    assert evaluate_lvis(truth, [result], boundary=True).metrics["AP75"] == 0
    result["segmentation"] = mask_to_rle(truth_mask)
    assert evaluate_lvis(truth, [result], boundary=True).metrics["AP"] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_boundary_ap_is_at_most_mask_ap_in_every_iou(seed):
    case = Case(seed)
    masks = evaluate_lvis(case.truth, case.results, max_dets=-1)
    boundaries = evaluate_lvis(case.truth, case.results, max_dets=-1, boundary=True)
    for mask, boundary in zip(masks.per_category, boundaries.per_category):
        assert (boundary.recall <= mask.recall).all()
