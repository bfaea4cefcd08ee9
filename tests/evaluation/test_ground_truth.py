"""Ground truth that cannot be used is refused, with what is wrong and where."""

import json

import numpy as np
import pytest

from balms_det.annotations.masks import mask_to_rle
from balms_det.annotations.read import AnnotationFileError
from balms_det.evaluation import evaluate_lvis

RESULT = {
    "image_id": 3,
    "category_id": 5,
    "score": 0.9,
    "segmentation": mask_to_rle(np.ones((20, 20), bool)),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["images"][0].pop("neg_category_ids"), r"image 3 has no 'neg_category_ids'"),
        (lambda t: t["images"][0].pop("not_exhaustive_category_ids"), "no 'not_exhaustive"),
        (lambda t: t["categories"][0].pop("frequency"), "'owl' has frequency None"),
        (lambda t: t["categories"][0].update(frequency="x"), "'owl' has frequency 'x'"),
        (lambda t: t["annotations"][1].update(id=0), "id 0 is listed 2 times in 'annotations'"),
        (lambda t: t["images"].append(t["images"][0]), "id 3 is listed 2 times in 'images'"),
        (lambda t: t["annotations"][1].update(image_id=4), "annotation 1 has image_id 4"),
        (lambda t: t["annotations"][1].update(category_id=2), "annotation 1 has category_id 2"),
        (lambda t: t["annotations"][1].pop("segmentation"), "annotation 1 has no segmentation"),
        (lambda t: t["annotations"][1].update(segmentation=[[1]]), "annotation 1 has a broken"),
        (lambda t: t["annotations"][1].pop("area"), "area"),
        (lambda t: t.pop("images"), "images"),
        (lambda t: t.update(categories=[]), "'categories' is empty"),
    ],
)
def test_unusable_ground_truth_is_refused(truth, change, message, tmp_path):
    change(truth)
    with pytest.raises(AnnotationFileError, match=message):
        evaluate_lvis(truth, [RESULT])
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    with pytest.raises(AnnotationFileError, match=rf"truth\.json.*{message}"):
        evaluate_lvis(path, [RESULT])


def test_ground_truth_of_a_wrong_type_is_refused():
    with pytest.raises(TypeError, match="list"):
        evaluate_lvis([], [RESULT])
