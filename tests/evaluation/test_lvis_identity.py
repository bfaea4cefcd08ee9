"""The same bits as the official package, on random cases."""

import copy
import json

import numpy as np
import pytest
from lvis_cases import Case

from balms_det.evaluation import evaluate_lvis
from balms_det.evaluation.backends import evaluate_results
from balms_det.evaluation.backends import hotcoco as rust
from balms_det.evaluation.backends import hotcoco as rust_stream
from balms_det.evaluation.backends.official import import_lvis
from balms_det.evaluation.ground_truth import read_ground_truth
from balms_det.evaluation.results import read as result_parts
from balms_det.evaluation.rules import Limits

FEW = 40
SEEDS = [*range(FEW), *(pytest.param(n, marks=pytest.mark.slow) for n in range(FEW, 110))]


def official(truth, results, iou_type, max_dets, tmp_path):
    """The package as its users call it, from a file. Masks have the area of the mask."""
    lvis = import_lvis()
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    results = copy.deepcopy(results)
    if iou_type == "segm":
        for result in results:
            del result["bbox"]
    dataset = lvis.LVIS(str(path))
    evaluation = lvis.LVISEval(dataset, lvis.LVISResults(dataset, results, max_dets), iou_type)
    evaluation.params.max_dets = max_dets
    evaluation.run()
    return evaluation


def set_way(case, seed, iou_type, monkeypatch):
    """Choose one of the ways through the fast backend, in small pieces."""
    for number, (module, name) in enumerate(
        (
            (result_parts, "_PIECE"),
            (result_parts, "_PART"),
            (rust, "_PART"),
            (rust_stream, "_IMAGES_AT_A_TIME"),
        )
    ):
        monkeypatch.setattr(module, name, 1 + (seed // 4 + number) % 5)
    if seed % 4 < 2:
        case.results.sort(key=lambda entry: -entry["image_id"])
        truth = read_ground_truth(case.truth, masks=iou_type == "segm")
        in_parts = evaluate_results(truth, case.results, iou_type, Limits(case.max_dets))
        assert in_parts is not None or not len(truth.category)
    elif seed % 4 == 3:
        monkeypatch.setattr(rust, "STREAM_LIMIT", 0)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", SEEDS)
def test_both_backends_equal_the_official_package(seed, iou_type, tmp_path, monkeypatch):
    case = Case(seed)
    set_way(case, seed, iou_type, monkeypatch)
    expected = official(case.truth, case.results, iou_type, case.max_dets, tmp_path)
    for backend in ("hotcoco", "official"):
        result = evaluate_lvis(case.truth, case.results, iou_type, case.max_dets, backend=backend)
        assert result.metrics == dict(expected.get_results())
        assert list(result.metrics) == list(expected.get_results())
        for k, category in enumerate(result.per_category):
            curve = expected.eval["precision"][:, :, k, 0]
            assert np.array_equal(category.precision, curve)
            assert np.array_equal(category.recall, expected.eval["recall"][:, k, 0])


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(15))
def test_both_backends_agree_on_coco_format(seed, iou_type, monkeypatch):
    case = Case(seed)
    for image in case.truth["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    set_way(case, seed, iou_type, monkeypatch)
    arguments = (case.truth, case.results, iou_type, case.max_dets)
    fast, slow = (evaluate_lvis(*arguments, backend=b) for b in ("hotcoco", "official"))
    assert fast.metrics == slow.metrics
    for one, other in zip(fast.per_category, slow.per_category):
        assert np.array_equal(one.precision, other.precision)
