"""Boundaries of masks against the definition, with OpenCV's erosion."""

import json

import cv2
import numpy as np
import pytest
from lvis_cases import Case
from pycocotools import mask as mask_api

from balms_det.annotations.masks import mask_to_rle, rle_to_mask
from balms_det.evaluation import evaluate_lvis
from balms_det.evaluation.backends.official import boundary_width, import_lvis, rle_boundary


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


class BoundaryEval(import_lvis().LVISEval):
    """The challenge's rule over all pairs of the official package, without a shortcut."""

    def compute_iou(self, image_id, category_id):
        overlap = super().compute_iou(image_id, category_id)
        if not np.size(overlap):
            return overlap
        dt = sorted(self._dts[image_id, category_id], key=lambda d: -d["score"])
        dt, gt = ([rle(a) for a in side] for side in (dt, self._gts[image_id, category_id]))
        return np.minimum(overlap, mask_api.iou(dt, gt, [0] * len(gt)))


def rle(annotation):
    return mask_to_rle(reference(rle_to_mask(annotation["segmentation"]), 0.02))


@pytest.mark.parametrize("seed", range(25))
def test_equals_the_rule_applied_to_every_pair(seed, tmp_path):
    case = Case(seed)
    (tmp_path / "truth.json").write_text(json.dumps(case.truth))
    results = [{k: v for k, v in result.items() if k != "bbox"} for result in case.results]
    expected = BoundaryEval(str(tmp_path / "truth.json"), results, "segm")
    expected.run()
    result = evaluate_lvis(case.truth, case.results, boundary=True)
    assert result.metrics == dict(expected.get_results())
