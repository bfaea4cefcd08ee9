"""Differences between two sets of results, and the bootstrap behind their intervals."""

import csv
import math

import numpy as np
import pytest
from lvis_cases import Case

from balms_det.evaluation import compare_results, evaluate_lvis
from balms_det.evaluation.bootstrap import draw_weights, match_detections, weighted_ap
from balms_det.evaluation.compare import comparison_table, write_comparison
from balms_det.evaluation.detections import evaluated_detections
from balms_det.evaluation.ground_truth import read_ground_truth
from balms_det.evaluation.results.read import read_detections
from balms_det.evaluation.rules import Limits


def matches_of(case, iou_type):
    truth = read_ground_truth(case.truth, masks=iou_type == "segm")
    detections = read_detections(case.results, truth, iou_type)
    return match_detections(
        truth, evaluated_detections(truth, detections, Limits(case.max_dets)), iou_type
    )


def repeated(case, weights):
    """The case with every image as often as its weight says."""
    truth = {"images": [], "annotations": [], "categories": case.truth["categories"]}
    results = []
    order = sorted(case.truth["images"], key=lambda image: image["id"])
    for image, times in zip(order, weights.tolist()):
        for copy in range(times):
            number = 1000 * image["id"] + copy
            truth["images"].append({**image, "id": number})
            for target, source in (
                (truth["annotations"], case.truth["annotations"]),
                (results, case.results),
            ):
                own = [entry for entry in source if entry["image_id"] == image["id"]]
                target += [{**entry, "image_id": number} for entry in own]
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number
    return truth, results


def aps_of(truth, results, iou_type, max_dets):
    result = evaluate_lvis(truth, results, iou_type, max_dets)
    return np.array([c.ap if c.ap >= 0 else np.nan for c in result.per_category])


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(12))
def test_ap_of_equal_weights_is_that_of_the_evaluation(seed, iou_type):
    case = Case(seed)
    ones = np.ones((1, len(case.images)), np.uint16)
    found = [weighted_ap(matches, ones)[0] for matches in matches_of(case, iou_type)]
    expected = aps_of(case.truth, case.results, iou_type, case.max_dets)
    assert np.allclose(found, expected, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("seed", range(12))
def test_a_weight_counts_an_image_as_often(seed):
    """Scores are made distinct, because equal ones of two images would alternate in the copies."""
    case = Case(seed + 50)
    for number, result in enumerate(case.results):
        result["score"] = number / len(case.results)
    weights = draw_weights(len(case.images), 3, seed)
    found = np.array([weighted_ap(matches, weights) for matches in matches_of(case, "bbox")])
    for draw, row in enumerate(weights):
        truth, results = repeated(case, row)
        if not results:
            continue
        expected = aps_of(truth, results, "bbox", case.max_dets)
        assert np.allclose(found[:, draw], expected, atol=1e-12, equal_nan=True)


def test_draws_are_of_the_same_size_and_repeatable():
    weights = draw_weights(30, 40, seed=3)
    assert (weights.sum(axis=1) == 30).all()
    assert (weights == draw_weights(30, 40, seed=3)).all()
    assert (weights != draw_weights(30, 40, seed=4)).any()


def dataset(num_images=40):
    """Two classes, "f" on each image and "r" on some."""
    categories = [{"id": 1, "name": "bug", "frequency": "f"}]
    categories += [{"id": 2, "name": "owl", "frequency": "r"}]
    images = [
        {
            "id": n,
            "height": 50,
            "width": 50,
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [],
        }
        for n in range(num_images)
    ]
    pairs = [(n, c) for n in range(num_images) for c in (1, 2) if c == 1 or n % 10 == 0]
    annotations = [
        {"id": m, "image_id": n, "category_id": c, "bbox": [5 * c, 5, 9, 9], "area": 81}
        for m, (n, c) in enumerate(pairs, start=1)
    ]
    return {"images": images, "categories": categories, "annotations": annotations}


def hits(truth, right):
    """A detection for each instance, in its place if ``right(image, category)``."""
    return [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "score": 0.5 + a["id"] / 1000,
            "bbox": a["bbox"] if right(a["image_id"], a["category_id"]) else [30, 30, 9, 9],
        }
        for a in truth["annotations"]
    ]


def test_a_clear_difference_and_none():
    truth = dataset()
    a = hits(truth, lambda image, category: category == 1 and image % 2 == 0)
    b = hits(truth, lambda image, category: category == 2 or image % 2 == 0)
    comparison = compare_results(truth, a, b, "bbox", draws=200)
    rows = {row.name: row for row in (*comparison.groups, *comparison.classes)}
    assert rows["APr"].difference == pytest.approx(100)
    assert rows["APr"].clear and rows["owl"].clear
    assert (rows["owl"].images, rows["owl"].group) == (4, "r")
    assert rows["bug"].difference == rows["bug"].low == rows["bug"].high == 0
    assert not rows["bug"].clear
    assert math.isnan(rows["APc"].difference)
    assert "| APc" in comparison_table(comparison)
    assert "1 of 2 classes" in comparison_table(comparison)


def test_one_image_tells_no_spread():
    truth = dataset(10)  # an owl on the first image alone
    a, b = (hits(truth, lambda image, category, own=own: category in own) for own in ((1,), (2,)))
    comparison = compare_results(truth, a, b, "bbox", draws=50)
    owl = comparison.classes[1]
    assert (owl.name, owl.images, owl.difference) == ("owl", 1, pytest.approx(100))
    assert math.isnan(owl.low) and math.isnan(owl.high) and not owl.clear
    assert comparison.classes[0].clear
    assert "1 of 2 classes differ clearly" in comparison_table(comparison)


def test_the_interval_holds_the_difference_and_shrinks_with_more_images():
    widths = []
    for size in (40, 400):
        truth = dataset(size)
        a = hits(truth, lambda image, category: image % 3 == 0)
        b = hits(truth, lambda image, category: image % 3 != 1)
        row = compare_results(truth, a, b, "bbox", draws=300).groups[0]
        assert row.low <= row.difference <= row.high
        widths.append(row.high - row.low)
    assert widths[1] < widths[0] / 2


def test_csv_has_every_class(tmp_path):
    truth = dataset()
    a = hits(truth, lambda image, category: True)
    write_comparison(compare_results(truth, a, a, "bbox", draws=5), tmp_path / "out" / "c.csv")
    with open(tmp_path / "out" / "c.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["AP", "APr", "APc", "APf", "bug", "owl"]
    assert rows[2]["ap_a"] == "" and float(rows[0]["difference"]) == 0


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"level": 1.0}, {"rule": "none"}])
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        compare_results(dataset(), [], [], "bbox", **wrong)
