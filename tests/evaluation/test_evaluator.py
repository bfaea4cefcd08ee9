"""The Detectron2 evaluator on a small dataset, without a model."""

import json
import logging
import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators
from detectron2.structures import Boxes, BoxMode, Instances

from balms_det import add_balms_config
from balms_det.data.datasets import register_files
from balms_det.evaluation import LongTailEvaluator, build_evaluator, evaluate_lvis

SIZE = 64


def mask_of(box):
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    x, y, width, height = box
    mask[y : y + height, x : x + width] = True
    return mask


def content(federated):
    """Three images, categories 3, 5 and 9, an instance of each on image 1, of 9 on image 2."""
    categories = [{"id": k, "name": f"c{k}"} for k in (3, 5, 9)]
    images = [{"id": i, "height": SIZE, "width": SIZE, "file_name": f"{i}.jpg"} for i in (1, 2, 4)]
    if federated:
        for category, frequency in zip(categories, "rrf"):
            category["frequency"] = frequency
        for image in images:
            image |= {"neg_category_ids": [3, 5, 9], "not_exhaustive_category_ids": []}
    places = [(1, 3, 4), (1, 5, 24), (1, 9, 44), (2, 9, 4)]
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": [x, 4, 16, 16],
            "area": 256,
            "iscrowd": 0,
            "segmentation": [[x, 4, x + 16, 4, x + 16, 20, x, 20]],
        }
        for number, (image, category, x) in enumerate(places, start=1)
    ]
    return {"images": images, "categories": categories, "annotations": annotations}


@pytest.fixture
def register(tmp_path):
    def register(file_content, suffix=""):
        name = f"{tmp_path.name}{suffix}"
        path = tmp_path / f"gt{suffix}.json"
        path.write_text(json.dumps(file_content))
        register_files([[name, str(path), str(tmp_path)]])
        return name

    return register


def instances(*detections, masks=True):
    """Of (class, box x, y, width, height, score)."""
    classes, boxes, scores = zip(*detections) if detections else ((), (), ())
    xyxy = [[x, y, x + width, y + height] for x, y, width, height in boxes]
    fields = {
        "pred_boxes": Boxes(torch.tensor(xyxy, dtype=torch.float32).reshape(-1, 4)),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "pred_classes": torch.tensor(classes, dtype=torch.int64),
    }
    if masks:
        stack = [mask_of(box) for box in boxes]
        fields["pred_masks"] = torch.stack(stack) if stack else torch.zeros(0, SIZE, SIZE)
    return Instances((SIZE, SIZE), **fields)


FIRST = [(0, (4, 4, 16, 16), 0.9), (2, (40, 40, 9, 9), 0.8)]  # a hit and a false positive
SECOND = [(2, (4, 5, 16, 16), 0.7)]


def run(evaluator, masks=True):
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": instances(*FIRST, masks=masks)}])
    batch = [{"instances": instances(*SECOND, masks=masks)}, {"instances": instances(masks=masks)}]
    evaluator.process([{"image_id": 2}, {"image_id": 4}], batch)
    return evaluator.evaluate()


def make_cfg(out, *names, train=()):
    cfg = get_cfg()
    add_balms_config(cfg)
    cfg.OUTPUT_DIR = str(out)
    cfg.DATASETS.TEST, cfg.DATASETS.TRAIN = names, train
    return cfg


@pytest.mark.parametrize("federated", [True, False], ids=["lvis", "coco"])
def test_results_are_those_of_evaluate_lvis_in_percent(federated, register, tmp_path):
    name = register(content(federated))
    found = run(LongTailEvaluator(name, tmp_path))
    kind = "lvis" if federated else "coco"
    path = tmp_path / f"{kind}_instances_results.json"
    assert sorted(found) == ["bbox", "segm"]
    for task in found:
        expected = evaluate_lvis(str(tmp_path / "gt.json"), str(path), task).metrics
        for key, value in expected.items():
            right = 100 * value if value >= 0 else math.nan
            assert found[task][key] == pytest.approx(right, rel=0, abs=0, nan_ok=True)
    assert found["segm"]["AP50"] == pytest.approx(100 * (1 + 0 + 51 / 101 / 2) / 3)
    assert {entry["category_id"] for entry in json.loads(path.read_text())} == {3, 9}


def test_groups_of_a_coco_format_dataset_come_from_training_counts(register, tmp_path):
    training = content(False)
    box = training["annotations"][0]
    training["images"] += [{**training["images"][0], "id": 100 + n} for n in range(12)]
    training["annotations"] += [
        {**box, "id": 100 + n, "image_id": 100 + n, "category_id": 5} for n in range(12)
    ]
    train, test = register(training, "_train"), register(content(False), "_test")
    found = run(build_evaluator(make_cfg(tmp_path, test, train=(train,)), test))["bbox"]
    assert found["APr"] == pytest.approx((found["AP"] * 3 - 0.0) / 2)  # 5 is common, AP 0
    assert found["APc"] == 0.0
    assert math.isnan(found["APf"])
    cfg = make_cfg(tmp_path, test, train=(train,))
    cfg.TEST.FREQUENCY_LIMITS = [0, 5]
    found = run(build_evaluator(cfg, test))["bbox"]
    assert math.isnan(found["APr"]) and found["APf"] == 0.0


def test_boxes_alone(register, tmp_path):
    assert list(run(LongTailEvaluator(register(content(True)), tmp_path), masks=False)) == ["bbox"]


def test_a_second_evaluation_starts_anew(register, tmp_path):
    evaluator = LongTailEvaluator(register(content(True)), tmp_path)
    first = run(evaluator)
    assert run(evaluator)["segm"] == pytest.approx(first["segm"], nan_ok=True)
    assert len(json.loads((tmp_path / "lvis_instances_results.json").read_text())) == 3


def test_two_evaluations_in_one_folder_have_their_own_ap(register, tmp_path):
    name = register(content(False))
    alone = run(LongTailEvaluator(name, tmp_path / "alone"))
    first, second = (LongTailEvaluator(name, tmp_path / "both") for _ in range(2))
    first.reset()
    second.reset()
    first.process([{"image_id": 1}], [{"instances": instances(*FIRST)}])
    second.process([{"image_id": 2}], [{"instances": instances(*SECOND)}])
    rest = [{"instances": instances(*SECOND)}, {"instances": instances()}]
    first.process([{"image_id": 2}, {"image_id": 4}], rest)
    other = second.evaluate()
    found = first.evaluate()
    assert found["segm"] == pytest.approx(alone["segm"], nan_ok=True)
    assert other["segm"]["AP"] < found["segm"]["AP"]
    names = [path.name for path in (tmp_path / "both").iterdir()]
    assert names == ["coco_instances_results.json"]


def test_a_model_that_detects_nothing_is_undefined(register, tmp_path, caplog):
    evaluator = LongTailEvaluator(register(content(True)), tmp_path)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": instances()}])
    with caplog.at_level(logging.WARNING):
        found = evaluator.evaluate()
    assert math.isnan(found["segm"]["APr"])
    assert "No detection on any image" in caplog.text


def test_a_test_set_without_annotations_gets_its_results_file(register, tmp_path):
    unlabelled = {key: value for key, value in content(True).items() if key != "annotations"}
    name = register({**unlabelled, "annotations": []})
    (tmp_path / "gt.json").write_text(json.dumps(unlabelled))
    assert run(LongTailEvaluator(name, tmp_path)) == {}
    assert len(json.loads((tmp_path / "lvis_instances_results.json").read_text())) == 3


def test_an_unknown_image_is_an_error(register, tmp_path):
    evaluator = LongTailEvaluator(register(content(True)), tmp_path)
    evaluator.reset()
    evaluator.process([{"image_id": 77}], [{"instances": instances(*FIRST)}])
    message = (
        r"lvis_instances_results\.json, entry 0: .*image_id that the dataset does not list: 77"
    )
    with pytest.raises(ValueError, match=message):
        evaluator.evaluate()


def test_several_test_sets_do_not_overwrite_each_other(register, tmp_path):
    names = [register(content(True), suffix) for suffix in ("_a", "_b")]
    for name in names:
        run(build_evaluator(make_cfg(tmp_path, *names), name))
        assert (tmp_path / "inference" / name / "lvis_instances_results.json").exists()


def test_keypoints_are_left_to_detectron2(register, tmp_path):
    name = register(content(False))
    cfg = make_cfg(tmp_path, name)
    cfg.MODEL.KEYPOINT_ON = True
    assert isinstance(build_evaluator(cfg, name), DatasetEvaluators)
    evaluator = LongTailEvaluator(name, tmp_path)
    evaluator.reset()
    found = instances(*FIRST)
    found.pred_keypoints = torch.zeros(2, 17, 3)
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    assert found.has("pred_keypoints")
    evaluator.evaluate()
    assert "keypoints" not in (tmp_path / "coco_instances_results.json").read_text()


def test_a_dataset_without_a_file_is_an_error(tmp_path):
    MetadataCatalog.get("dicts_only").evaluator_type = "coco"
    with pytest.raises(ValueError, match=r"'dicts_only' has no json_file"):
        LongTailEvaluator("dicts_only", tmp_path)


def test_a_dataset_of_python_is_evaluated(tmp_path):
    """Written in COCO format as Detectron2 does; what is found exactly is found."""
    size = {"height": 50, "width": 60}
    box = {"bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "bbox": [5, 5, 25, 20]}
    records = [{"file_name": "a.png", "image_id": 7, "annotations": [box], **size}]
    DatasetCatalog.register("of_python", lambda: records)
    MetadataCatalog.get("of_python").thing_classes = ["ant", "owl"]
    try:
        evaluator = LongTailEvaluator("of_python", tmp_path)
        evaluator.reset()
        found = Instances((50, 60))
        found.pred_boxes = Boxes(torch.tensor([[5.0, 5, 25, 20]]))
        found.scores, found.pred_classes = torch.tensor([0.9]), torch.tensor([1])
        evaluator.process([{"image_id": 7}], [{"instances": found}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove("of_python")
        MetadataCatalog.remove("of_python")
