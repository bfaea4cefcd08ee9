"""Pairs of files with the same classes under other ids and in another order, or with other classes:
what is measured stays the same, or an error names both. Never another number."""

import copy
import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from torch import nn

from balms_det import add_balms_config
from balms_det.annotations.class_identity import ClassList, ClassListError
from balms_det.data.class_stats import build_class_stats
from balms_det.data.datasets import setup_datasets
from balms_det.engine.checkpoint import LongTailCheckpointer
from balms_det.engine.identity import Identity
from balms_det.engine.weights_files import IDENTITY
from balms_det.evaluation import build_evaluator
from balms_det.features.manifest import FeatureCacheError
from balms_det.features.read import FeatureCache
from balms_det.report import write_report

NAMES = ["ant", "bee", "cat", "dog"]
IMAGES = [12, 4, 2, 1]  # of each class; with the limits below one is frequent, one common, two rare
SIZE = 64


def dataset(images_of):
    """A COCO-format dataset with one object an image, category ids 1, 2, ... in order."""
    images, annotations = [], []
    for category, count in enumerate(images_of, start=1):
        for _ in range(count):
            number = len(images) + 1
            images.append({"id": number, "height": SIZE, "width": SIZE, "file_name": "a.jpg"})
            box = {"bbox": [4 * category, 8, 20, 20], "area": 400, "iscrowd": 0}
            ids = {"id": number, "image_id": number, "category_id": category}
            annotations.append({**ids, **box})
    categories = [{"id": c, "name": name} for c, name in enumerate(NAMES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def variant(content, draw):
    """The same dataset under other ids and in another order, and what was changed of its classes:
    "none", or a class that is renamed, dropped (with its objects) or added."""
    content, change = copy.deepcopy(content), draw.choice(["none", "none", "rename", "drop", "add"])
    categories = content["categories"]
    ids = draw.sample(range(1, 60), len(categories))
    new = {category["id"]: number for category, number in zip(categories, ids)}
    for entry in categories:
        entry["id"] = new[entry["id"]]
    for entry in content["annotations"]:
        entry["category_id"] = new[entry["category_id"]]
    if change == "rename":
        draw.choice(categories)["name"] = "gnu"
    elif change == "add":
        categories.append({"id": 99, "name": "gnu"})
    elif change == "drop":
        gone = categories.pop(draw.randrange(len(categories)))["id"]
        kept = [a for a in content["annotations"] if a["category_id"] != gone]
        content["annotations"] = kept
    draw.shuffle(categories)
    return content, change


@pytest.fixture
def write(tmp_path):
    """Write a json; its path. What is registered of it in the test is removed."""
    before = set(DatasetCatalog.list())
    (tmp_path / "a.jpg").touch()

    def write(content, name):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return str(path)

    yield write
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def config(tmp_path, train, val, **keys):
    cfg = get_cfg()
    add_balms_config(cfg)
    rows = [["pair_train", train, str(tmp_path)], ["pair_val", val, str(tmp_path)]]
    cfg.DATASETS.FILES, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = rows, ("pair_train",), ("pair_val",)
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.TEST.FREQUENCY_LIMITS = [3, 10]
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def found_by_name(image_id, name, score=0.9):
    """What a model that was trained on NAMES predicts: a box of the class, by its place there."""
    left = 4.0 * (NAMES.index(name) + 1)
    found = Instances((SIZE, SIZE), pred_boxes=Boxes(torch.tensor([[left, 8, left + 20, 28]])))
    found.scores, found.pred_classes = torch.tensor([score]), torch.tensor([NAMES.index(name)])
    return {"image_id": image_id}, {"instances": found}


def box_ap_of(cfg, val):
    """Box metrics of a model that finds "ant" and "cat" and never the others."""
    evaluator = build_evaluator(cfg, "pair_val")
    evaluator.reset()
    names = {category["id"]: category["name"] for category in val["categories"]}
    for annotation in val["annotations"]:
        if names[annotation["category_id"]] in ("ant", "cat"):
            one = found_by_name(annotation["image_id"], names[annotation["category_id"]])
            evaluator.process([one[0]], [one[1]])
    return evaluator.evaluate()["bbox"]


def assert_names_both(caught, *paths):
    for path in paths:
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("seed", range(12))
def test_training_and_validation_files(write, tmp_path, seed):
    draw = random.Random(seed)
    train, val = write(dataset(IMAGES), "train.json"), dataset([3, 3, 3, 3])
    changed, change = variant(val, draw)
    cfg = config(tmp_path, train, write(changed, "val.json"))
    if change != "none":
        with pytest.raises(ClassListError) as caught:
            setup_datasets(cfg)
        assert_names_both(caught, train, tmp_path / "val.json")
        return
    setup_datasets(cfg)
    metrics = box_ap_of(cfg, changed)
    # Found: the frequent "ant" and the rare "cat"; not: the common "bee" and the rare "dog".
    expected = {"AP": 50.0, "APf": 100.0, "APc": 0.0, "APr": 50.0}
    assert {name: pytest.approx(metrics[name]) for name in expected} == expected
    names = [category["name"] for category in sorted(changed["categories"], key=lambda c: c["id"])]
    boxes = {r["image_id"]: r["annotations"][0] for r in DatasetCatalog.get("pair_val")}
    for annotation in changed["annotations"]:  # the dicts are in the model's order as well
        rank = sorted(c["id"] for c in changed["categories"]).index(annotation["category_id"])
        assert NAMES[boxes[annotation["image_id"]]["category_id"]] == names[rank]


@pytest.mark.parametrize("seed", range(12))
def test_class_counts(write, tmp_path, seed):
    train = write(dataset([1, 1, 1, 1]), "train.json")
    changed, change = variant(dataset(IMAGES), random.Random(seed))
    counted = write(changed, "counts.json")
    cfg = setup_datasets(config(tmp_path, train, train, DATASETS__CLASS_COUNTS=counted))
    if change == "none":
        stats = build_class_stats(cfg)
        assert stats.image_count.tolist() == IMAGES and list(stats.names) == NAMES
        return
    with pytest.raises(ClassListError) as caught:
        build_class_stats(cfg)
    assert_names_both(caught, train, counted)


@pytest.mark.parametrize("seed", range(12))
def test_results_and_training_counts(write, tmp_path, seed):
    """The groups of the report, as those of tools/evaluate.py --train-json."""
    changed, change = variant(dataset(IMAGES), random.Random(seed))
    val, counts = dataset([3, 3, 3, 3]), write(changed, "counts.json")
    gt = write(val, "gt.json")
    keys = ("image_id", "category_id", "bbox")
    entries = [{**{k: a[k] for k in keys}, "score": 0.9} for a in val["annotations"]]
    runs = {"all found": write(entries, "results.json")}
    arguments = {"counts": counts, "iou_type": "bbox"}
    if change != "none":
        with pytest.raises(ClassListError) as caught:
            write_report(gt, runs, tmp_path / "r.html", **arguments)
        assert_names_both(caught, gt, counts)
        return
    page = Path(write_report(gt, runs, tmp_path / "r.html", **arguments)).read_text()
    data = json.loads(page.split('id="data">', 1)[1].split("</script>", 1)[0])
    classes = data["classes"]
    assert (classes["names"], classes["counts"]) == (NAMES, IMAGES)
    assert classes["groups"] == ["c", "r", "r", "r"]


class Model(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.roi_heads = nn.Module()
        self.roi_heads.box_predictor = nn.Module()
        self.roi_heads.box_predictor.cls_score = nn.Linear(3, rows)
        self.roi_heads.box_predictor.bbox_pred = nn.Linear(3, 4)


@pytest.mark.parametrize("trained", [None, [], ["cls_score"]])
@pytest.mark.parametrize("names", [NAMES, NAMES[::-1], NAMES[:3], [*NAMES, "gnu"], ["gnu"] * 4])
def test_checkpoints(tmp_path, names, trained):
    """Boxes that serve all classes: shapes alone do not tell 3 classes from 4."""
    rows = len(NAMES)  # sigmoid; 3 classes and background have as many
    saved, model = Model(rows), Model(rows)
    path = str(tmp_path / "a.pth")
    identity = Identity(len(names), list(names)).plain()
    torch.save({"model": saved.state_dict(), IDENTITY: identity}, path)
    fresh = model.roi_heads.box_predictor.cls_score.weight.detach().clone()
    classes = ClassList.of("train.json", NAMES)
    checkpointer = LongTailCheckpointer(model, require_all_but=trained, classes=classes)
    if names != NAMES and trained is not None:
        with pytest.raises(ClassListError) as caught:
            checkpointer.load(path)
        assert_names_both(caught, path, "train.json")
        return
    checkpointer.load(path)
    loaded = model.roi_heads.box_predictor
    expected = saved.roi_heads.box_predictor.cls_score.weight if names == NAMES else fresh
    assert torch.equal(loaded.cls_score.weight, expected)
    assert torch.equal(loaded.bbox_pred.weight, saved.roi_heads.box_predictor.bbox_pred.weight)


@pytest.mark.parametrize("names", [NAMES[::-1], NAMES[:3], [*NAMES, "gnu"], [*NAMES[:3], "gnu"]])
def test_caches(tmp_path, names):
    manifest = SimpleNamespace(num_classes=len(NAMES), class_names=tuple(NAMES))
    cache = FeatureCache(tmp_path / "cache", manifest)
    cache.check_classes(len(NAMES), NAMES, "train.json")
    with pytest.raises(FeatureCacheError) as caught:
        cache.check_classes(len(names), names, "train.json")
    assert_names_both(caught, tmp_path / "cache", "train.json")


def test_two_training_files_in_two_orders(write, tmp_path):
    """Objects of both reach the model under one class each."""
    first, second = dataset([1, 1, 1, 1]), dataset([2, 0, 0, 1])
    for entries, key in ((second["categories"], "id"), (second["annotations"], "category_id")):
        for entry in entries:
            entry[key] = 5 - entry[key]
    cfg = config(tmp_path, write(first, "a.json"), write(second, "b.json"))
    cfg.DATASETS.TRAIN = ("pair_train", "pair_val")
    stats = build_class_stats(setup_datasets(cfg))
    assert stats.image_count.tolist() == [3, 1, 1, 2]
    dicts = [*DatasetCatalog.get("pair_train"), *DatasetCatalog.get("pair_val")]
    classes = [a["category_id"] for record in dicts for a in record["annotations"]]
    assert np.bincount(classes).tolist() == [3, 1, 1, 2]


def test_a_dataset_has_its_own_order_again_where_it_is_the_model_s(write, tmp_path):
    """One process, two configs: what the first has put into another order is not kept."""
    other = dataset(IMAGES)
    for entries, key in ((other["categories"], "id"), (other["annotations"], "category_id")):
        for entry in entries:
            entry[key] = 5 - entry[key]
    cfg = config(tmp_path, write(dataset(IMAGES), "train.json"), write(other, "val.json"))
    setup_datasets(cfg.clone())
    assert MetadataCatalog.get("pair_val").thing_classes == NAMES
    cfg.DATASETS.TRAIN = ("pair_val",)
    stats = build_class_stats(setup_datasets(cfg))
    assert list(stats.names) == NAMES[::-1] and stats.image_count.tolist() == IMAGES[::-1]
    assert MetadataCatalog.get("pair_train").thing_classes == NAMES[::-1]


def test_a_dataset_of_python_in_another_order_is_refused(write, tmp_path):
    train = write(dataset(IMAGES), "train.json")
    DatasetCatalog.register("pair_python", list)
    MetadataCatalog.get("pair_python").thing_classes = NAMES[::-1]
    cfg = config(tmp_path, train, train)
    cfg.DATASETS.TEST = ("pair_python",)
    with pytest.raises(ClassListError, match=r"class 0 is 'ant'.*'pair_python'.*DATASETS\.FILES"):
        setup_datasets(cfg)
