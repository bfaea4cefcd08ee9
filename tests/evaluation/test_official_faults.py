"""Where the official package is wrong: what it does, and what evaluate_lvis does instead."""

import copy
import json

import numpy as np
import pytest

from balms_det.annotations.masks import mask_to_rle
from balms_det.annotations.read import AnnotationFileError
from balms_det.evaluation import evaluate_lvis
from balms_det.evaluation.backends.official import import_lvis

HIT = {"image_id": 3, "category_id": 5, "bbox": [2, 2, 8, 8], "score": 0.9}
BACKENDS = pytest.mark.parametrize("backend", ["hotcoco", "official"])


def official(truth, results, tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    evaluation = import_lvis().LVISEval(str(path), copy.deepcopy(results), "bbox")
    evaluation.run()
    return evaluation.get_results()


@BACKENDS
def test_an_annotation_with_id_0_can_be_found(truth, backend, tmp_path):
    truth["annotations"] = [{**truth["annotations"][1], "id": 0}]
    assert official(truth, [HIT], tmp_path)["AP"] == 0
    assert evaluate_lvis(truth, [HIT], "bbox", backend=backend).metrics["AP"] > 0.99


def test_a_score_of_nan_is_an_error(truth, tmp_path):
    truth["annotations"][1]["id"] = 7
    miss = {**HIT, "bbox": [12, 12, 4, 4], "score": 0.95}
    assert official(truth, [HIT, miss], tmp_path)["APr"] < 0.51
    miss["score"] = float("nan")  # sorts last, so the worst of mistakes costs nothing
    assert official(truth, [HIT, miss], tmp_path)["APr"] > 0.99
    with pytest.raises(ValueError, match="nan"):
        evaluate_lvis(truth, [HIT, miss], "bbox")


def test_an_empty_list_is_an_error_that_says_so(truth, tmp_path):
    with pytest.raises(IndexError):
        official(truth, [], tmp_path)
    with pytest.raises(ValueError, match="empty"):
        evaluate_lvis(truth, [], "bbox")


def test_annotations_of_the_same_id_are_an_error(truth, tmp_path):
    first, second = truth["annotations"]
    first.update(id=2, category_id=5, bbox=[12, 12, 4, 4])
    both = [HIT, {**HIT, "bbox": [12, 12, 4, 4]}]
    assert official(truth, both, tmp_path)["AP"] > 0.99
    second["id"] = first["id"]  # now the package sees the second one twice, the first never
    assert official(truth, both, tmp_path)["AP"] < 0.6
    with pytest.raises(AnnotationFileError, match="id 2 is listed 2 times"):
        evaluate_lvis(truth, both, "bbox")


EMPTY = mask_to_rle(np.zeros((20, 20), bool))


def test_the_area_of_a_mask_is_that_of_the_mask(truth, tmp_path):
    """The package takes the area of the box where a mask comes with one, so Detectron2 drops it."""
    import_lvis()
    with_box = {**HIT, "segmentation": EMPTY}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    lvis = import_lvis()
    loaded = lvis.LVISResults(lvis.LVIS(str(path)), [copy.deepcopy(with_box)])
    assert loaded.dataset["annotations"][0]["area"] == 64
    result = evaluate_lvis(truth, [with_box], "segm")
    assert result.per_category[1].num_detections == 0  # an empty mask
