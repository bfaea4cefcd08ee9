"""Masks of a list of results are checked late: same errors as of those that are read at once."""

import copy

import numpy as np
import pytest
from lvis_cases import Case

from balms_det.data.masks import mask_to_rle
from balms_det.evaluation import evaluate_lvis, held_masks
from balms_det.evaluation.backends import rust_stream
from balms_det.evaluation.ground_truth import read_ground_truth
from balms_det.evaluation.read_detections import open_detections, read_detections
from balms_det.evaluation.results_file import ResultsError

RLE = mask_to_rle(np.eye(20, dtype=bool))
VERIFIED, ELSEWHERE = 5, 1  # categories: the second one is not verified once its instance is gone
FAULTS = {
    "no mask": {},
    "no RLE": {"segmentation": [[1, 2, 3, 4, 5, 6]]},
    "another size": {"segmentation": {**RLE, "size": [20, 21]}},
    "size of floats": {"segmentation": {**RLE, "size": [20.0, 20.0]}},
    "three sides": {"segmentation": {**RLE, "size": [20, 20, 20]}},
    "counts of numbers": {"segmentation": {**RLE, "counts": [400]}},
}


class Text(str):
    """Only the slow reader takes it."""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(held_masks, "_CHUNK", 2)
    monkeypatch.setattr(rust_stream, "_IMAGES_AT_A_TIME", 1)


def result(category=VERIFIED, **changes):
    return {"image_id": 3, "category_id": category, "score": 0.5, "segmentation": RLE, **changes}


def without_mask(category, **changes):
    entry = {"image_id": 3, "category_id": category, "score": 0.5}
    return {**entry, **changes}


@pytest.mark.parametrize("backend", ["hotcoco", "official"])
@pytest.mark.parametrize("category", [VERIFIED, ELSEWHERE])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_as_when_it_is_read_at_once(truth, fault, category, backend):
    truth["annotations"] = truth["annotations"][1:]
    bad = without_mask(category, **FAULTS[fault])
    results = [result()] * 5 + [bad] + [result()] * 3 + [bad]
    with pytest.raises(ResultsError) as expected:
        read_detections(results, read_ground_truth(truth, masks=True), "segm")
    assert "entry 5" in str(expected.value) and "2 entries" in str(expected.value)
    with pytest.raises(ResultsError) as raised:
        evaluate_lvis(truth, results, backend=backend)
    assert str(raised.value) == str(expected.value)


def test_a_fault_of_an_entry_comes_before_a_broken_rle(truth):
    broken = result(segmentation={"size": [20, 20], "counts": "e05?0000000g9"})
    with pytest.raises(ResultsError, match="entry 8"):
        evaluate_lvis(truth, [broken, *[result()] * 7, without_mask(VERIFIED)])


def test_results_are_read_again_once(truth):
    detections = open_detections(
        [result()] * 3 + [without_mask(VERIFIED)], read_ground_truth(truth, masks=True), "segm"
    )
    assert detections.masks[0] is RLE
    errors = []
    for _ in range(2):
        with pytest.raises(ResultsError) as raised:
            detections.masks.check_all()
        errors.append(raised.value)
    assert errors[0] is errors[1]


def test_masks_that_only_the_slow_reader_takes(truth):
    odd = {**RLE, "counts": Text(RLE["counts"].decode())}
    results = [result()] * 3 + [result(segmentation=odd, score=0.75)]
    plain = [result()] * 3 + [result(score=0.75)]
    assert evaluate_lvis(truth, results).metrics == evaluate_lvis(truth, plain).metrics


@pytest.mark.parametrize("backend", ["hotcoco", "official"])
def test_the_results_stay_as_they_are(backend):
    case = Case(3)
    before = copy.deepcopy(case.results)
    evaluate_lvis(case.truth, case.results, backend=backend)
    assert case.results == before


def test_other_faults_are_named_as_ever(truth):
    with pytest.raises(ResultsError, match="the list is empty"):
        evaluate_lvis(truth, [])
    with pytest.raises(ResultsError, match="id that an earlier entry has"):
        evaluate_lvis(truth, [result(id=1), result(id=1)])
    with pytest.raises(ResultsError, match="image_id that the dataset does not list: 4"):
        evaluate_lvis(truth, [result(), result(image_id=4)])


def test_of_several_broken_masks_the_first_of_the_results_is_named(truth):
    truth["images"] += [{**truth["images"][0], "id": n} for n in (1, 2, 8)]
    for n in (1, 2, 8):
        truth["annotations"].append({**truth["annotations"][1], "id": 10 + n, "image_id": n})
    broken = {"size": [20, 20], "counts": "e05?0000000g9"}
    results = [result(image_id=n, segmentation=broken) for n in (8, 2, 1)]
    with pytest.raises(ValueError, match="on image 8 "):
        evaluate_lvis(truth, [result(), *results])
