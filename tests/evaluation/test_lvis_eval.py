"""evaluate_lvis: what it returns and what it refuses."""

import copy

import pytest

from balms_det.evaluation import evaluate_lvis

SQUARE = [[2, 2, 10, 2, 10, 10, 2, 10]]


@pytest.fixture
def truth():
    categories = [
        {"id": 1, "name": "cat", "frequency": "f"},
        {"id": 5, "name": "owl", "frequency": "r"},
    ]
    image = {"id": 3, "width": 20, "height": 20, "neg_category_ids": []}
    image["not_exhaustive_category_ids"] = []
    annotations = [
        {
            "id": n,
            "image_id": 3,
            "category_id": c,
            "bbox": [2, 2, 8, 8],
            "area": 64,
            "segmentation": copy.deepcopy(SQUARE),
        }
        for n, c in enumerate((1, 5))
    ]
    return {"images": [image], "annotations": annotations, "categories": categories}


HIT = {"image_id": 3, "category_id": 5, "bbox": [2, 2, 8, 8], "score": 0.9}
MISS = {"image_id": 3, "category_id": 1, "bbox": [12, 12, 4, 4], "score": 0.9}


def test_metrics_categories_and_groups(truth):
    result = evaluate_lvis(truth, [HIT, MISS], "bbox", backend="official")
    assert result.metrics["APr"] == pytest.approx(1)
    assert result.metrics["APf"] == 0.0
    assert result.metrics["APc"] == -1.0
    assert result.groups == {"r": [5], "c": [], "f": [1]}
    owl = result.per_category[1]
    assert (owl.id, owl.name, owl.frequency) == (5, "owl", "r")
    assert (owl.num_images, owl.num_instances, owl.num_detections) == (1, 1, 1)
    assert owl.precision.shape == (10, 101)
