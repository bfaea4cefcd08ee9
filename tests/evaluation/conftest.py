"""A dataset of one image and two categories."""

import pytest


@pytest.fixture
def truth():
    categories = [
        {"id": 5, "name": "owl", "frequency": "r"},
        {"id": 1, "name": "cat", "frequency": "f"},
    ]
    image = {"id": 3, "width": 20, "height": 20, "neg_category_ids": []}
    image["not_exhaustive_category_ids"] = []
    square = [2, 2, 10, 2, 10, 10, 2, 10]
    annotations = [
        {"id": n, "image_id": 3, "category_id": c, "bbox": [2, 2, 8, 8], "area": 64}
        for n, c in enumerate((1, 5))
    ]
    for annotation in annotations:
        annotation["segmentation"] = [list(square)]
    return {"images": [image], "annotations": annotations, "categories": categories}
