"""COCO's rules: the same bits as pycocotools, and the same rules wherever AP is computed."""

import contextlib
import copy
import io

import numpy as np
import pytest
from lvis_cases import Case
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from balms_det.evaluation import compare_results, evaluate_lvis
from balms_det.evaluation.backends import hotcoco as rust

# Cases of a test; all together are 300.
BATCH = 50
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def coco_case(seed):
    """A case in COCO's format: crowds, areas of 0, boxes without a size, ``ignore``, ties."""
    case = Case(seed)
    rng = np.random.default_rng(seed + 10_000)
    for image in case.truth["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for annotation in case.truth["annotations"]:
        annotation["iscrowd"] = annotation.get("iscrowd", 0)
        if rng.random() < 0.1:
            annotation["bbox"][2 + int(rng.integers(2))] = 0
    # Many on one spot, so that the limits of 1, 10 and the largest one all cut.
    if case.results and seed % 3 == 0:
        first = case.results[0]
        scores = rng.integers(0, 4, 14) / 5
        case.results += [{**first, "score": float(score)} for score in scores]
    return case


def pycocotools(case, iou_type, max_dets=100):
    """As its users call it; masks have the area of the mask."""
    results = copy.deepcopy(case.results)
    if iou_type == "segm":
        for result in results:
            del result["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(case.truth)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), iou_type)
        evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def numbers(metrics, most=100):
    names = (*NUMBERS, "AR@1", "AR@10", f"AR@{most}", *(f"AR{a}@{most}" for a in "sml"))
    return [metrics[name] for name in names]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("start", range(0, 300, BATCH))
def test_the_twelve_numbers_are_those_of_pycocotools(start, iou_type):
    for seed in range(start, start + BATCH):
        case = coco_case(seed)
        expected = pycocotools(case, iou_type)
        result = evaluate_lvis(case.truth, case.results, iou_type)
        assert numbers(result.metrics) == expected.stats.tolist(), seed
        assert (result.rule, result.max_dets) == ("coco", 100)
        precision = expected.eval["precision"][:, :, :, 0, -1]
        for k, category in enumerate(result.per_category):
            assert np.array_equal(category.precision, precision[:, :, k]), seed


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(0, 40, 3))
def test_other_limits_ways_and_backends(seed, iou_type, monkeypatch):
    monkeypatch.setattr(rust, "_PART", 3)
    case = coco_case(seed)
    expected = pycocotools(case, iou_type, 12)
    precision, recall = expected.eval["precision"][:, :, :, 0, -1], expected.eval["recall"]
    in_a_row = sorted(case.results, key=lambda entry: entry["image_id"])
    for results in (case.results, in_a_row):
        for backend in ("hotcoco", "official"):
            result = evaluate_lvis(case.truth, results, iou_type, 12, backend=backend)
            for k, category in enumerate(result.per_category):
                assert np.array_equal(category.precision, precision[:, :, k])
            for place, n in enumerate((1, 10, 12)):
                known = recall[:, :, 0, place][recall[:, :, 0, place] > -1]
                assert result.metrics[f"AR@{n}"] == (known.mean() if known.size else -1)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(8))
def test_a_comparison_has_the_same_rules(seed, iou_type):
    case = coco_case(seed)
    ap = evaluate_lvis(case.truth, case.results, iou_type).metrics["AP"]
    compared = compare_results(case.truth, case.results, case.results, iou_type, draws=1)
    found = compared.groups[0].ap_a
    assert np.isnan(found) if ap < 0 else found == pytest.approx(100 * ap, abs=1e-9)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(8))
def test_the_lvis_rule_by_name_and_the_coco_rule_on_federated_data(seed, iou_type):
    case, plain = Case(seed), coco_case(seed)
    for own in (case, plain):
        fast, slow = (
            evaluate_lvis(own.truth, own.results, iou_type, rule="lvis", backend=backend)
            for backend in ("hotcoco", "official")
        )
        assert fast.metrics == slow.metrics
        assert fast.rule == "lvis" and "AR@300" in fast.metrics
    by_default = evaluate_lvis(case.truth, case.results, iou_type)
    assert by_default.rule == "lvis"
    named = evaluate_lvis(case.truth, case.results, iou_type, rule="coco")
    for annotation in case.truth["annotations"]:
        annotation.setdefault("iscrowd", 0)
    assert numbers(named.metrics) == pycocotools(case, iou_type).stats.tolist()


def test_boundary_iou_by_the_rules_of_coco():
    """Boundary IoU only makes IoU smaller."""
    case = coco_case(1)
    result = evaluate_lvis(case.truth, case.results, boundary=True)
    plain = evaluate_lvis(case.truth, case.results, backend="official")
    assert result.rule == "coco"
    assert result.metrics["AP"] <= plain.metrics["AP"]
    assert list(result.metrics) == list(plain.metrics)


def one_class(annotations, detections):
    """An image of 200 x 200 with these (box, crowd) and these (box, score)."""
    truth = {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "categories": [{"id": 4, "name": "owl"}],
        "annotations": [
            {
                "id": n,
                "image_id": 1,
                "category_id": 4,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": crowd,
            }
            for n, (box, crowd) in enumerate(annotations, start=1)
        ],
    }
    keys = {"image_id": 1, "category_id": 4}
    return truth, [{**keys, "bbox": box, "score": score} for box, score in detections]


def test_a_crowd_takes_any_number_of_detections():
    inside = [([110 + 5 * n, 110, 20, 20], 0.9) for n in range(5)]
    truth, results = one_class(
        [([10, 10, 30, 30], 0), ([100, 100, 90, 90], 1)], [*inside, ([10, 10, 30, 30], 0.5)]
    )
    assert evaluate_lvis(truth, results, "bbox").metrics["AP"] == pytest.approx(1)
    by_lvis = evaluate_lvis(truth, results, "bbox", rule="lvis")
    assert by_lvis.metrics["AP"] == pytest.approx(1 / 6)


def test_ignore_means_nothing_and_an_object_without_an_area_counts():
    truth, results = one_class(
        [([10, 10, 30, 30], 0), ([50, 50, 0, 9], 0)], [([10, 10, 30, 30], 1)]
    )
    truth["annotations"][0]["ignore"] = 1
    result = evaluate_lvis(truth, results, "bbox")
    assert result.per_category[0].num_instances == 2
    assert result.metrics["AR@100"] == pytest.approx(0.5)
