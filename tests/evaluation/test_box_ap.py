"""Box AP in memory: the same figures as the official package reads from files."""

import json
import math

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from balms_det.evaluation.box_ap import METRICS, as_results, box_ap, lvis_ground_truth
from balms_det.evaluation.lvis_package import import_lvis
from balms_det.evaluation.strength_curves import draw_strength_curves

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
                "bbox": [*rng.integers(0, 40, 2).tolist(), *rng.integers(10, 40, 2).tolist()],
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


def _results(dicts):
    rng = np.random.default_rng(1)
    results = []
    for record in dicts:
        boxes = np.array([a["bbox"] for a in record["annotations"]], dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2]
        boxes = np.concatenate([boxes + rng.normal(0, 2, boxes.shape), boxes])
        classes = np.array([a["category_id"] for a in record["annotations"]] * 2)
        results += as_results(record["image_id"], boxes, rng.random(8), classes)
    return results


def test_equals_the_official_package_on_files(dataset, tmp_path):
    name, dicts = dataset
    results = _results(dicts)
    back = {c: i for i, c in IDS.items()}
    annotations = [
        {"image_id": r["image_id"], "category_id": back[a["category_id"]], "bbox": a["bbox"]}
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
    truth.write_text(json.dumps(content))
    moved = [{**r, "category_id": back[r["category_id"] - 1]} for r in results]
    found.write_text(json.dumps(moved))
    evaluation = import_lvis().LVISEval(str(truth), str(found), "bbox")
    evaluation.run()
    expected = {metric: 100 * evaluation.get_results()[metric] for metric in METRICS}
    assert 0 < expected["AP"] < 100
    assert box_ap(lvis_ground_truth(name, dicts, FREQUENCY), results) == expected


def test_data_without_negatives_counts_as_complete(dataset):
    name, dicts = dataset
    for record in dicts:
        del record["neg_category_ids"], record["not_exhaustive_category_ids"]
    dicts[0]["annotations"] = [{**dicts[0]["annotations"][0], "category_id": 1, "iscrowd": 1}]
    truth = lvis_ground_truth(name, dicts, FREQUENCY)
    assert truth["images"][0]["neg_category_ids"] == [1, 2, 3]
    assert len(truth["annotations"]) == 20


def test_no_detection_and_no_group(dataset):
    name, dicts = dataset
    truth = lvis_ground_truth(name, dicts, ["f", "f", "f"])
    assert all(math.isnan(value) for value in box_ap(truth, []).values())
    found = box_ap(truth, _results(dicts))
    assert math.isnan(found["APr"]) and found["AP"] == found["APf"] > 0


@pytest.mark.parametrize("count", [1, 4])
def test_curves_are_drawn(tmp_path, count):
    metrics = dict.fromkeys(METRICS, 10.0)
    curve = [(0.5, {**metrics, "APr": math.nan}), (0.0, metrics)]
    path = tmp_path / "deep" / "curves.png"
    curves = {f"C{i}": curve for i in range(count)}
    draw_strength_curves(curves, path, title="Title", chosen=("C0", 0.5))
    assert path.read_bytes().startswith(b"\x89PNG")
