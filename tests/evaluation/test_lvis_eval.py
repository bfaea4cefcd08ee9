"""evaluate_lvis: rules, formats, what it returns and what it refuses."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
from lvis_cases import Case

from balms_det.annotations.masks import mask_to_rle, rle_totals
from balms_det.annotations.read import AnnotationFileError
from balms_det.data import ClassStats
from balms_det.evaluation import evaluate_lvis
from balms_det.evaluation.backends.official import import_lvis

BACKENDS = pytest.mark.parametrize("backend", ["hotcoco", "official"])


def coco(truth):
    for image in truth["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in truth["categories"]:
        del category["frequency"]
    return truth


def detection(category_id, box, score=0.9, image_id=3):
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


HIT = detection(5, [2, 2, 8, 8])
MISS = detection(1, [12, 12, 4, 4])


@BACKENDS
def test_metrics_categories_and_groups(truth, backend):
    result = evaluate_lvis(truth, [HIT, MISS], "bbox", backend=backend)
    assert result.metrics["APr"] == pytest.approx(1)
    assert result.metrics["APf"] == 0
    assert result.metrics["APc"] == -1
    assert result.metrics["AR@300"] == pytest.approx(0.5)
    assert (result.iou_type, result.max_dets) == ("bbox", 300)
    assert result.groups == {"r": [5], "c": [], "f": [1]}
    cat, owl = result.per_category
    assert (owl.id, owl.name, owl.frequency, cat.name) == (5, "owl", "r", "cat")
    assert (owl.ap, owl.ap50, owl.ap75, cat.ap) == pytest.approx((1, 1, 1, 0))
    assert (owl.num_images, owl.num_instances, owl.num_detections) == (1, 1, 1)
    assert owl.precision.shape == (10, 101)
    assert owl.recall.tolist() == [1] * 10
    assert owl.recall_points[[0, 100]].tolist() == [0, 1]


def test_inputs_are_paths_or_objects_and_stay_as_they_are(truth, tmp_path):
    results = [HIT, MISS]
    expected = evaluate_lvis(copy.deepcopy(truth), copy.deepcopy(results), "bbox").metrics
    for name, content in (("truth", truth), ("results", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    paths = str(tmp_path / "truth.json"), tmp_path / "results.json"
    assert evaluate_lvis(*paths, "bbox").metrics == expected
    assert evaluate_lvis(import_lvis().LVIS(paths[0]), results, "bbox").metrics == expected
    before = copy.deepcopy((truth, results))
    for backend in ("hotcoco", "official"):
        evaluate_lvis(truth, results, "bbox", backend=backend)
    assert (truth, results) == before


@BACKENDS
def test_nothing_to_match(truth, backend):
    elsewhere = detection(5, [2, 2, 8, 8])
    truth["annotations"] = truth["annotations"][:1]  # so category 5 is not verified
    metrics = evaluate_lvis(truth, [elsewhere], "bbox", backend=backend).metrics
    assert (metrics["AP"], metrics["APr"]) == (0, -1)
    truth["annotations"] = []
    metrics = evaluate_lvis(truth, [elsewhere], "bbox", backend=backend).metrics
    assert set(metrics.values()) == {-1}


@BACKENDS
def test_an_empty_mask_uses_up_a_place_within_the_limit(truth, backend):
    empty, full = np.zeros((2, 20, 20), bool)
    full[2:10, 2:10] = True
    results = [detection(5, None, score) for score in (0.9, 0.8)]
    for result, mask in zip(results, (empty, full)):
        del result["bbox"]
        result["segmentation"] = mask_to_rle(mask)
    assert evaluate_lvis(truth, results, max_dets=1, backend=backend).metrics["APr"] == 0
    assert evaluate_lvis(truth, results, max_dets=2, backend=backend).metrics["APr"] > 0.99


@BACKENDS
def test_without_a_limit_all_detections_of_an_image_count(truth, backend):
    misses = [detection(5, [12, 12, 4, 4], 0.9 - n / 1000) for n in range(400)]
    results = [*misses, detection(5, [2, 2, 8, 8], 0.1)]  # the 401st of its image
    arguments = {"backend": backend}
    assert evaluate_lvis(truth, results, "bbox", **arguments).metrics["APr"] == 0
    expected = pytest.approx(1 / 401)
    assert evaluate_lvis(truth, results, "bbox", -1, **arguments).metrics["APr"] == expected
    fixed = evaluate_lvis(truth, results, "bbox", rule="fixed", **arguments)
    assert fixed.metrics["APr"] == expected


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("backend", ["hotcoco", "official"])
def test_a_polygon_of_two_points_is_refused_wherever_it_stands(truth, place, backend):
    """pycocotools takes it for a box where it comes first, and for a line where it does not."""
    outlines = truth["annotations"][1]["segmentation"]
    outlines.insert(place, [12, 12, 18, 15])
    with pytest.raises(AnnotationFileError, match=r"annotation 1 has .*needs 3 points, it has 4"):
        evaluate_lvis(truth, [], "segm", backend=backend)


def limit_per_category(results, limit):
    """Fixed AP as its authors define it: the best of each category, then no limit per image."""
    by_category = {}
    for result in results:
        by_category.setdefault(result["category_id"], []).append(result)
    ranked = (sorted(r, key=lambda d: d["score"], reverse=True) for r in by_category.values())
    return [result for results in ranked for result in results[:limit]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limit", [4, 10_000])
def test_fixed_ap(seed, limit, monkeypatch):
    monkeypatch.setattr("balms_det.evaluation.rules.FIXED_PER_CATEGORY", limit)
    case = Case(seed)
    expected = evaluate_lvis(
        case.truth, limit_per_category(case.results, limit), "bbox", -1, backend="official"
    )
    result = evaluate_lvis(case.truth, case.results, "bbox", rule="fixed")
    assert result.metrics == expected.metrics
    assert result.max_dets == -1
    assert "AR@-1" in result.metrics


@BACKENDS
def test_coco_format_is_exhaustive_and_ignores_crowds(truth, backend):
    coco(truth)
    truth["images"].append({"id": 9, "width": 20, "height": 20})
    other = detection(5, [0, 0, 9, 9], 0.95, image_id=9)  # LVIS would not count it
    metrics = evaluate_lvis(truth, [HIT, other], "bbox", backend=backend).metrics
    assert metrics["AP"] == pytest.approx(0.25)
    assert metrics["APr"] == metrics["APc"] == metrics["APf"] == -1
    crowd = {**truth["annotations"][0], "id": 2, "iscrowd": 1, "bbox": [12, 12, 4, 4]}
    truth["annotations"].append(crowd)
    result = evaluate_lvis(truth, [MISS, HIT], "bbox", backend=backend)
    assert result.per_category[0].num_instances == 1
    assert result.per_category[0].precision.max() == 0  # a match of the crowd is no hit ...
    on_both = [MISS, detection(1, [2, 2, 8, 8], 0.1)]
    assert evaluate_lvis(truth, on_both, "bbox", backend=backend).per_category[0].ap > 0.99


def test_groups_from_training_counts(truth):
    counts = ClassStats(image_count=[3, 40], instance_count=[3, 40], num_images=100)
    hits = [HIT, MISS]
    result = evaluate_lvis(coco(truth), hits, "bbox", groups=counts.frequency_groups(2, 30))
    assert result.groups == {"r": [], "c": [1], "f": [5]}
    assert (result.metrics["APc"], result.metrics["APf"]) == pytest.approx((0, 1))
    result = evaluate_lvis(truth, hits, "bbox", groups={"r": [5, 1]})
    assert result.metrics["APr"] == pytest.approx(0.5)
    for wrong in (["r"], ["r", "x"], {"q": [1]}, {"r": [99]}):
        with pytest.raises(ValueError, match="r"):
            evaluate_lvis(truth, hits, "bbox", groups=wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, "77"),
        ({"category_id": 77}, "77"),
        ({"score": float("nan")}, "nan"),
    ],
)
def test_unusable_results_are_refused(truth, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate_lvis(truth, [HIT, {**HIT, **change}], "bbox")


@pytest.mark.parametrize("counts", ["e05?0000000g9", "\x01\x02", "é"])
@BACKENDS
def test_broken_masks_are_refused(truth, counts, backend):
    good = {**HIT, "segmentation": mask_to_rle(np.eye(20, dtype=bool))}
    broken = {**HIT, "score": 0.25, "segmentation": {"size": [20, 20], "counts": counts}}
    with pytest.raises(ValueError, match=r"category 5 on image 3 with the score 0\.25"):
        evaluate_lvis(truth, [good, broken], backend=backend)


NEGATIVE = "T3b1`<hI"  # runs of 100, 50, 400 and -150: as many as pixels


@pytest.mark.parametrize("format_of", [lambda truth: truth, coco], ids=["lvis", "coco"])
@pytest.mark.parametrize("cut", ["one character", "zzzz", "a run", "negative"])
@BACKENDS
def test_masks_that_do_not_fill_their_image_are_refused(truth, cut, backend, format_of):
    shape = np.zeros((20, 20), bool)
    shape[2:10, 2:10] = True
    whole = mask_to_rle(shape)["counts"].decode()
    counts = {"one character": whole[:-1], "zzzz": "zzzz", "a run": "e05", "negative": NEGATIVE}
    assert rle_totals([{"counts": NEGATIVE}]).tolist() == [400]
    good, broken = (
        {**HIT, "score": score, "segmentation": {"size": [20, 20], "counts": own}}
        for score, own in ((0.9, whole), (0.25, counts[cut]))
    )
    truth = format_of(truth)
    for results in ([good, broken], [good, broken, {**good, "image_id": 3.0}, good]):
        with pytest.raises(ValueError, match=r"category 5 on image 3 with the score 0\.25"):
            evaluate_lvis(truth, results, backend=backend)
    evaluate_lvis(truth, [good], backend=backend)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("max_dets", [2, 5])
def test_lenient_leaves_unlisted_categories_out_after_the_limit(seed, max_dets, tmp_path):
    """As the official package, which takes them and lets them use up places."""
    case = Case(seed)
    unlisted = max(case.category_ids) + 1
    rng = np.random.default_rng(seed)
    for result in case.results:
        if rng.random() < 0.4:
            result["category_id"] = unlisted
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(case.truth))
    lvis = import_lvis()
    found = lvis.LVISResults(lvis.LVIS(str(path)), copy.deepcopy(case.results), max_dets)
    expected = lvis.LVISEval(lvis.LVIS(str(path)), found, "bbox")
    expected.params.max_dets = max_dets
    expected.run()
    for backend in ("hotcoco", "official"):
        result = evaluate_lvis(
            case.truth, case.results, "bbox", max_dets, backend=backend, lenient=True
        )
        assert result.metrics == dict(expected.get_results())


@pytest.mark.parametrize(
    "arguments",
    [
        {"iou_type": "keypoints"},
        {"backend": "coco"},
        {"rule": "2021"},
        {"max_dets": 0},
        {"iou_type": "bbox", "boundary": True},
    ],
)
def test_wrong_arguments_are_refused(truth, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        evaluate_lvis(truth, [HIT], **arguments)


def test_the_fast_backend_needs_neither_the_official_package_nor_opencv(tmp_path):
    case = Case(0)
    (tmp_path / "case.json").write_text(json.dumps([case.truth, case.results]))
    code = (
        "import json, sys; sys.modules.update(cv2=None, lvis=None);"  # importing them is an error
        "from balms_det.evaluation import evaluate_lvis;"
        f"evaluate_lvis(*json.load(open({str(tmp_path / 'case.json')!r})), 'segm')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
