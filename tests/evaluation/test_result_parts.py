"""Results that are evaluated while they are read: the same detections, the same errors."""

import copy
import itertools
import json

import numpy as np
import pytest
from lvis_cases import Case

from balms_det.annotations.masks import mask_to_rle
from balms_det.evaluation import evaluate_lvis
from balms_det.evaluation.backends import evaluate_results
from balms_det.evaluation.detections import BrokenMaskError, Detections, evaluated_detections
from balms_det.evaluation.ground_truth import read_ground_truth
from balms_det.evaluation.results import read as result_parts
from balms_det.evaluation.results.read import ReadWhole, ResultsError, read_detections
from balms_det.evaluation.rules import Limits

RLE = mask_to_rle(np.eye(20, dtype=bool))
BROKEN = {"size": [20, 20], "counts": "e05?0000000g9"}
VERIFIED, ELSEWHERE = 5, 1  # categories: the second one is not verified once its instance is gone
FAULTS = {
    "no mask": {},
    "no RLE": {"segmentation": [[1, 2, 3, 4, 5, 6]]},
    "another size": {"segmentation": {**RLE, "size": [20, 21]}},
    "size of floats": {"segmentation": {**RLE, "size": [20.0, 20.0]}},
    "three sides": {"segmentation": {**RLE, "size": [20, 20, 20]}},
    "one side": {"segmentation": {**RLE, "size": [20]}},
    "counts of numbers": {"segmentation": {**RLE, "counts": [400]}},
}


class Text(str):
    """Only the slow reader takes it."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(result_parts, "_PIECE", 2)
    monkeypatch.setattr(result_parts, "_PART", 3)


def result(category=VERIFIED, **changes):
    return {"image_id": 3, "category_id": category, "score": 0.5, "segmentation": RLE, **changes}


def without_mask(category, **changes):
    entry = {"image_id": 3, "category_id": category, "score": 0.5}
    return {**entry, **changes}


def add_images(truth, ids):
    truth["images"] += [{**truth["images"][0], "id": n} for n in ids]
    for n in ids:
        truth["annotations"].append({**truth["annotations"][-1], "id": 10 + n, "image_id": n})


def parts_of(truth, results, iou_type="segm", per_image=300):
    truth = read_ground_truth(truth, masks=iou_type == "segm")
    return list(result_parts.result_parts(results, truth, iou_type, Limits(per_image)))


def grouped(results):
    """Images in the order in which they come first, their entries in their order."""
    images = list(dict.fromkeys(entry["image_id"] for entry in results))
    return sorted(results, key=lambda entry: images.index(entry["image_id"]))


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(12))
def test_parts_are_the_detections_that_count(seed, iou_type, tmp_path):
    case = Case(seed)
    results = grouped(case.results)
    truth = read_ground_truth(case.truth, masks=iou_type == "segm")
    read = read_detections(results, truth, iou_type)
    expected = evaluated_detections(truth, read, Limits(case.max_dets))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    for source in (results, tuple(results), str(path)):
        parts = parts_of(case.truth, source, iou_type, case.max_dets)
        images = [set(part.image.tolist()) for part in parts]
        assert sum(map(len, images)) == len(set().union(*images))
        found = Detections.joined(parts)
        for name in ("image", "category", "score", "area", "box"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name
        if iou_type == "segm":
            assert found.masks == expected.masks[:]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_piece_ends_where_the_image_changes(size, monkeypatch):
    monkeypatch.setattr(result_parts, "_PIECE", size)
    entries = [{"image_id": n} for n in "aabbbbcdddde"]
    for chunk in (1, 2, 5, 20):
        chunks = [entries[start : start + chunk] for start in range(0, len(entries), chunk)]
        pieces = list(result_parts._whole_images(chunks))
        assert list(itertools.chain.from_iterable(pieces)) == entries
        images = [{entry["image_id"] for entry in piece} for piece in pieces]
        assert sum(map(len, images)) == 5
        assert all(len(piece) >= size for piece in pieces[:-1])


def test_parts_are_several(truth):
    add_images(truth, [1, 2, 8])
    results = [result(image_id=n) for n in (8, 8, 8, 3, 3, 1, 2, 2)]
    assert [len(part) for part in parts_of(truth, results)] == [3, 5]


@pytest.mark.parametrize(
    "results",
    [
        [],
        [result(), result(image_id=4)],
        [result(id=1), result(id=1)],
        [result(image_id=n) for n in (3, 3, 8, 8, 3)],
        [result(image_id=n) for n in (3, 8, 3)],
        [3, 4, 5],
        [{"category_id": VERIFIED}] * 3,
        [result()] * 30,
    ],
    ids=["empty", "unknown", "same id", "later", "scattered", "no dicts", "no image", "too many"],
)
def test_what_has_to_be_read_as_a_whole(truth, results, monkeypatch):
    monkeypatch.setattr(result_parts, "_MOST_OF_AN_IMAGE", 20)
    add_images(truth, [8])
    with pytest.raises(ReadWhole):
        parts_of(truth, results)


def test_ids_that_differ_and_those_of_some_entries_change_nothing(truth):
    different = [result(id=n) for n in range(5)]
    some = [result(id=1), result(id=1), result()]
    assert [sum(map(len, parts_of(truth, results))) for results in (different, some)] == [5, 3]


def test_a_broken_mask_raises(truth):
    with pytest.raises(BrokenMaskError):
        parts_of(truth, [result(), result(segmentation=BROKEN)])


@pytest.mark.parametrize("seed", range(6))
def test_scattered_images_give_the_same_numbers(seed):
    case = Case(seed)
    truth = read_ground_truth(case.truth, masks=True)
    scattered = sorted(case.results, key=lambda entry: entry["segmentation"]["counts"])
    if scattered != grouped(scattered):
        assert evaluate_results(truth, scattered, "segm", Limits(300)) is None
    expected = evaluate_lvis(case.truth, scattered, backend="official")
    for results in (scattered, grouped(scattered)):
        assert evaluate_lvis(case.truth, results).metrics == expected.metrics


def test_sound_results_are_read_once(truth, monkeypatch):
    looked_at, look = [], result_parts.sound_columns

    def counted(entries, *arguments):
        looked_at.append(len(entries))
        return look(entries, *arguments)

    monkeypatch.setattr(result_parts, "sound_columns", counted)
    evaluate_lvis(truth, [result()] * 7)
    assert sum(looked_at) == 7


@pytest.mark.parametrize("backend", ["hotcoco", "official"])
@pytest.mark.parametrize("category", [VERIFIED, ELSEWHERE])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_as_when_all_is_read_at_once(truth, fault, category, backend):
    truth["annotations"] = truth["annotations"][1:]
    add_images(truth, [8])
    bad = without_mask(category, **FAULTS[fault])
    results = [result(image_id=8)] * 3 + [result()] * 2 + [bad] + [result()] * 3 + [bad]
    with pytest.raises(ResultsError) as expected:
        read_detections(results, read_ground_truth(truth, masks=True), "segm")
    assert "entry 5" in str(expected.value) and "2 entries" in str(expected.value)
    with pytest.raises(ResultsError) as raised:
        evaluate_lvis(truth, results, backend=backend)
    assert str(raised.value) == str(expected.value)


def test_a_fault_of_an_entry_comes_before_a_broken_rle(truth):
    with pytest.raises(ResultsError, match="entry 8"):
        broken = result(segmentation=BROKEN)
        evaluate_lvis(truth, [broken, *[result()] * 7, without_mask(VERIFIED)])


def test_masks_that_only_the_slow_reader_takes(truth):
    odd = {**RLE, "counts": Text(RLE["counts"].decode())}
    results = [result()] * 3 + [result(segmentation=odd, score=0.75)]
    plain = [result()] * 3 + [result(score=0.75)]
    assert evaluate_lvis(truth, results).metrics == evaluate_lvis(truth, plain).metrics


@pytest.mark.parametrize("backend", ["hotcoco", "official"])
def test_the_results_stay_as_they_are(backend):
    case = Case(3)
    case.results = grouped(case.results)
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
    add_images(truth, [1, 2, 8])
    results = [result(image_id=n, segmentation=BROKEN) for n in (8, 2, 1)]
    with pytest.raises(ValueError, match="on image 8 "):
        evaluate_lvis(truth, [result(), *results])
