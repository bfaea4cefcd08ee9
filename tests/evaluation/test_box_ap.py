"""Box AP in memory: the same figures as the official package reads from files."""

import json
import math

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from balms_det.evaluation import evaluate_lvis
from balms_det.evaluation.backends.official import import_lvis
from balms_det.evaluation.box_ap import METRICS, BoxTruth, box_ap, lvis_ground_truth
from balms_det.evaluation.tables import draw_strength_curves

IDS = {10: 0, 20: 1, 30: 2}
FREQUENCY = ["r", "c", "f"]


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    dicts = []
    for image in range(6):
        annotations = [
            {
                "category_id": int(rng.integers(3)),
                "bbox": [*rng.integers(0, 40, 2), *rng.integers(10, 40, 2)],
                "bbox_mode": BoxMode.XYWH_ABS,
            }
            for _ in range(4)
        ]
        lists = {"neg_category_ids": [10, 30], "not_exhaustive_category_ids": [20] * (image == 2)}
        dicts.append(
            {"image_id": image, "height": 80, "width": 90, "annotations": annotations, **lists}
        )
    name = "box_ap_of_six_images"
    MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id = IDS
    yield name, dicts
    MetadataCatalog.remove(name)


def _found(dicts):
    """Of each image its id, boxes (float32, as a network gives them), scores and classes."""
    rng = np.random.default_rng(1)
    found = []
    for record in dicts:
        boxes = np.array([a["bbox"] for a in record["annotations"]], dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2]
        moved = (boxes + rng.normal(0, 2, boxes.shape)).astype(np.float32)
        classes = np.array([a["category_id"] for a in record["annotations"]] * 2)
        scores = rng.random(8, dtype=np.float32).round(1)  # some are equal
        found.append((record["image_id"], np.concatenate([moved, boxes]), scores, classes))
    return found


def _entries(found, category_ids):
    entries = []
    for image, boxes, scores, classes in found:
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        for box, score, c in zip(boxes.tolist(), scores.tolist(), classes.tolist()):
            entry = {"image_id": image, "category_id": category_ids[c], "bbox": box, "score": score}
            entries.append(entry)
    return entries


def test_equals_the_official_package_on_files(dataset, tmp_path):
    name, dicts = dataset
    back = {c: i for i, c in IDS.items()}
    annotations = [
        {
            "image_id": r["image_id"],
            "category_id": back[a["category_id"]],
            "bbox": a["bbox"],
        }
        for r in dicts
        for a in r["annotations"]
    ]
    areas = [a["bbox"][2] * a["bbox"][3] for a in annotations]
    annotations = [
        {**a, "id": i + 1, "area": area} for i, (a, area) in enumerate(zip(annotations, areas))
    ]
    content = {
        "images": [{"id": r.pop("image_id"), **r} for r in map(dict, dicts)],
        "annotations": annotations,
        "categories": [{"id": i, "frequency": FREQUENCY[c]} for i, c in IDS.items()],
    }
    truth, found = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(content, default=int))
    detections = _found(dicts)
    found.write_text(json.dumps(_entries(detections, back)))
    evaluation = import_lvis().LVISEval(str(truth), str(found), "bbox")
    evaluation.run()
    expected = {metric: 100 * evaluation.get_results()[metric] for metric in METRICS}
    assert 0 < expected["AP"] < 100
    truth = BoxTruth(lvis_ground_truth(name, dicts, FREQUENCY))
    assert [box_ap(truth, detections) for _ in range(2)] == [expected] * 2


def test_data_without_negatives_counts_as_complete(dataset):
    name, dicts = dataset
    lists = ("neg_category_ids", "not_exhaustive_category_ids")
    bare = [{k: v for k, v in record.items() if k not in lists} for record in dicts]
    bare[0]["annotations"] = []
    complete = lvis_ground_truth(name, bare, FREQUENCY)
    assert not set(lists) & set(complete["images"][0])
    # With the lists on one image the others get theirs, of every class that they do not show.
    one_with = lvis_ground_truth(name, [*bare[:-1], {**bare[-1], lists[1]: []}], FREQUENCY)
    assert one_with["images"][0]["neg_category_ids"] == [1, 2, 3]
    found = _found(dicts)
    assert box_ap(complete, found) == box_ap(one_with, found)
    partly = lvis_ground_truth(name, [*bare[:-1], {**bare[-1], lists[0]: []}], FREQUENCY)
    wrong = (bare[-1]["image_id"], np.array([[0, 0, 9, 9]]), np.ones(1), np.array([0]))
    assert 0 not in {a["category_id"] for a in bare[-1]["annotations"]}
    assert box_ap(partly, [*found, wrong]) == box_ap(partly, found)
    assert box_ap(complete, [*found, wrong])["APr"] < box_ap(complete, found)["APr"]


def test_a_crowd_of_coco_format_stays_a_crowd(dataset):
    name, dicts = dataset
    lists = ("neg_category_ids", "not_exhaustive_category_ids")
    bare = [{k: v for k, v in record.items() if k not in lists} for record in dicts]
    found = _found(bare)
    without = box_ap(lvis_ground_truth(name, bare, FREQUENCY), found)
    everywhere = {"bbox": [0, 0, 90, 80], "bbox_mode": BoxMode.XYWH_ABS, "iscrowd": 1}
    for record in bare:
        crowds = [{**everywhere, "category_id": c} for c in range(3)]
        record["annotations"] = [*record["annotations"], *crowds]
    truth = lvis_ground_truth(name, bare, FREQUENCY)
    assert len(truth["annotations"]) == 6 * (4 + 3)
    entries = _entries(found, [1, 2, 3])
    expected = evaluate_lvis(truth, entries, "bbox")
    ap = box_ap(truth, found)
    assert ap == {metric: 100 * expected.metrics[metric] for metric in METRICS}
    assert ap["AP"] > without["AP"]  # what hits nothing else lies in a crowd


def test_no_detection_and_no_group(dataset):
    name, dicts = dataset
    truth = lvis_ground_truth(name, dicts, ["f", "f", "f"])
    nothing = (0, np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    for found in ([], [nothing]):
        assert all(math.isnan(value) for value in box_ap(truth, found).values())
    values = box_ap(truth, _found(dicts))
    assert math.isnan(values["APr"]) and values["AP"] == values["APf"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: 77}, "image 77 is not in the ground truth"),
        ({1: np.array([[5, 5, 2, 9]])}, "box of negative size: score 0.5, class 1"),
        ({1: np.array([[5, np.nan, 8, 9]])}, "detection 0 has a box that is not finite"),
        ({2: np.array([np.nan])}, "score that is not finite: score nan"),
        ({3: np.array([3])}, "class that is none of the 3: score 0.5, class 3"),
        ({3: np.array([0, 1])}, "1 boxes have 1 scores and 2 classes"),
    ],
)
def test_bad_detections_are_refused(dataset, change, message):
    name, dicts = dataset
    good = [0, np.array([[5, 5, 8, 9.0]]), np.array([0.5]), np.array([1])]
    bad = tuple(change.get(n, column) for n, column in enumerate(good))
    with pytest.raises(ValueError, match=message):
        box_ap(lvis_ground_truth(name, dicts, FREQUENCY), [bad])


@pytest.mark.parametrize("count", [1, 4])
def test_curves_are_drawn(tmp_path, count):
    metrics = dict.fromkeys(METRICS, 10.0)
    curve = [(0.5, {**metrics, "APr": math.nan}), (0.0, metrics)]
    path = tmp_path / "deep" / "curves.png"
    curves = {f"C{i}": curve for i in range(count)}
    draw_strength_curves(curves, path, title="Title", chosen=("C0", 0.5))
    assert path.read_bytes().startswith(b"\x89PNG")
