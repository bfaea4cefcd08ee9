"""The official lvis package on current numpy, and the evaluator built on it."""

import json

import numpy
import pytest
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog

from balms_det.evaluation import build_evaluator
from balms_det.evaluation.backends.official import import_lvis


@pytest.fixture
def ground_truth(tmp_path):
    categories = [
        {"id": i, "name": name, "frequency": frequency, "image_count": 1, "instance_count": 1}
        for i, (name, frequency) in enumerate([("cat", "f"), ("owl", "r")], start=1)
    ]
    image = {"id": 1, "width": 20, "height": 20, "neg_category_ids": []}
    image["not_exhaustive_category_ids"] = []
    annotations = [
        {
            "id": c,
            "image_id": 1,
            "category_id": c,
            "bbox": [2, 2, 8, 8],
            "area": 64,
            "segmentation": [[2, 2, 10, 2, 10, 10, 2, 10]],
        }
        for c in (1, 2)
    ]
    path = tmp_path / "gt.json"
    data = {"images": [image], "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(data))
    return str(path)


def evaluate(ground_truth, results):
    lvis = import_lvis()
    evaluation = lvis.LVISEval(ground_truth, results, "bbox")
    evaluation.run()
    return evaluation.get_results()


def test_frequency_groups_are_told_apart(ground_truth):
    hit = {"image_id": 1, "category_id": 2, "bbox": [2, 2, 8, 8], "score": 0.9}
    miss = {"image_id": 1, "category_id": 1, "bbox": [12, 12, 4, 4], "score": 0.9}
    metrics = evaluate(ground_truth, [hit, miss])
    assert metrics["APr"] == pytest.approx(1.0)
    assert metrics["APf"] == 0.0


def test_numpy_itself_is_left_alone():
    had_it = hasattr(numpy, "float")
    import_lvis()
    assert hasattr(numpy, "float") == had_it


def test_a_dataset_without_a_known_format_is_an_error():
    MetadataCatalog.get("no_such_format").evaluator_type = "sem_seg"
    with pytest.raises(ValueError, match=r"no_such_format.*sem_seg"):
        build_evaluator(get_cfg(), "no_such_format")
