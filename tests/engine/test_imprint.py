"""A class added to a detector from exemplar boxes."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from balms_det.annotations.class_identity import ClassListError
from balms_det.engine import load_cfg, load_weights
from balms_det.engine.identity import config_classes, model_identity, read_identity
from balms_det.workflows.imprint import exemplar_directions, grow, imprint, read_exemplars

K, SIZE = 6, 96
IMAGE = {"id": 1, "file_name": "1.png", "height": SIZE, "width": SIZE}


@pytest.fixture
def exemplar_file(tmp_path):
    """Two images with two boxes of the new category "zebra" and one of another."""
    rng = np.random.default_rng(0)
    boxes = [(1, [10, 10, 40, 30], 7), (2, [5, 20, 50, 50], 7), (2, [60, 60, 20, 20], 3)]
    for image in (1, 2):
        pixels = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{image}.png"), pixels)
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": SIZE, "width": SIZE} for i in (1, 2)
        ],
        "annotations": [
            {"id": n, "image_id": image, "bbox": box, "category_id": c, "area": 1, "iscrowd": 0}
            for n, (image, box, c) in enumerate(boxes)
        ],
        "categories": [{"id": 3, "name": "apple"}, {"id": 7, "name": "zebra"}],
    }
    path = tmp_path / "new.json"
    path.write_text(json.dumps(content))
    return path


def _cfg(make_cfg, tmp_path, *opts, loss="NormalizedSoftmaxLoss"):
    options = ("MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME", loss, *opts)
    return make_cfg("stage1.yaml", tmp_path / "run", *options)


def _model(cfg):
    torch.manual_seed(0)
    return build_model(cfg).eval()


def _logits(model, records):
    """Of the exemplars' boxes, (N, L), at the last stage."""
    heads, rows = model.roi_heads, []
    last = [p[-1] if isinstance(p, torch.nn.ModuleList) else p for p in _parts(heads)]
    with torch.no_grad():
        for record in records:
            maps = model.backbone(model.preprocess_image([record]).tensor)
            maps = [maps[name] for name in heads.box_in_features]
            pooled = heads.box_pooler(maps, [record["instances"].gt_boxes])
            rows.append(last[1](last[0](pooled))[0])
    return torch.cat(rows)


def _parts(heads):
    return heads.box_head, heads.box_predictor


def test_exemplars_are_of_one_category(make_cfg, tmp_path, exemplar_file):
    cfg = _cfg(make_cfg, tmp_path)
    records = read_exemplars(cfg, str(exemplar_file), str(tmp_path), "zebra")
    assert [len(record["instances"]) for record in records] == [1, 1]
    assert records[0]["instances"].gt_boxes.tensor[0].tolist() == [10, 10, 50, 40]
    assert len(read_exemplars(cfg, str(exemplar_file), str(tmp_path), "zebra", limit=1)) == 1
    with pytest.raises(ValueError, match="no category 'horse'; it has apple, zebra"):
        read_exemplars(cfg, str(exemplar_file), str(tmp_path), "horse")


@pytest.mark.parametrize(
    ("head", "agnostic"),
    [
        ("LongTailROIHeads", "True"),
        ("LongTailROIHeads", "False"),
        ("LongTailCascadeROIHeads", "True"),  # Detectron2's cascade is agnostic of class
    ],
)
def test_imprinted_model_knows_the_class(make_cfg, tmp_path, exemplar_file, head, agnostic):
    cfg = _cfg(
        make_cfg,
        tmp_path,
        *("MODEL.ROI_HEADS.NAME", head, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic),
        *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", agnostic),
    )
    model = _model(cfg)
    records = read_exemplars(cfg, str(exemplar_file), str(tmp_path), "zebra")
    before = _logits(model, records)
    weights, config = imprint(cfg, model, records, tmp_path / "zebra")
    grown_cfg = load_cfg(str(config))
    assert grown_cfg.MODEL.ROI_HEADS.NUM_CLASSES == K + 1
    grown = build_model(grown_cfg).eval()
    keys = torch.load(weights, weights_only=True)["model"].keys()
    assert keys == grown.state_dict().keys()
    load_weights(grown_cfg, grown)
    after = _logits(grown, records)
    old = torch.tensor([*range(K), K + 1])
    torch.testing.assert_close(after[:, old], before)
    scale = 20.0  # of NormalizedSoftmaxLoss
    assert (after[:, K] > 0.8 * scale).all()  # two exemplars and their mean
    with torch.no_grad():
        grown([{"image": record["image"], "height": SIZE, "width": SIZE} for record in records])


def test_rows_of_the_new_class_are_those_of_the_likest(make_cfg, tmp_path):
    cfg = _cfg(make_cfg, tmp_path, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "False")
    model = _model(cfg)
    predictor = model.roi_heads.box_predictor
    state = grow(cfg, model, [predictor.cls_score.weight[2] / predictor.cls_score.weight[2].norm()])
    boxes = state["roi_heads.box_predictor.bbox_pred.weight"]
    assert torch.equal(boxes[-4:], boxes[8:12]) and len(boxes) == 4 * (K + 1)
    rows = state["roi_heads.box_predictor.cls_score.weight"]
    assert torch.equal(rows[K + 1], predictor.cls_score.weight[K])  # background is last again
    length = predictor.cls_score.weight[:K].norm(dim=1).mean()
    torch.testing.assert_close(rows[K].norm(), length)


def test_directions_are_means_of_directions(make_cfg, tmp_path, exemplar_file):
    cfg = _cfg(make_cfg, tmp_path)
    model = _model(cfg)
    records = read_exemplars(cfg, str(exemplar_file), str(tmp_path), "zebra")
    single = [exemplar_directions(model, [record])[0] for record in records]
    (both,) = exemplar_directions(model, records)
    mean = (single[0] + single[1]) / 2
    torch.testing.assert_close(both, mean / mean.norm())


def test_a_linear_classifier_is_refused(make_cfg, tmp_path):
    cfg = _cfg(make_cfg, tmp_path, loss="SoftmaxLoss")
    with pytest.raises(ValueError, match=r"needs a cosine classifier.*this model's is SoftmaxLoss"):
        grow(cfg, _model(cfg), [torch.ones(256)])


def test_a_named_class_is_found_by_its_name(make_cfg, tmp_path, exemplar_file):
    """The checkpoint names all classes, so data may list the new one anywhere; twice is enough."""
    cfg = _cfg(make_cfg, tmp_path)
    model = _model(cfg)
    records = read_exemplars(cfg, str(exemplar_file), str(tmp_path), "zebra")
    names = list(model_identity(cfg, model).class_names)
    weights, config = imprint(cfg, model, records, tmp_path / "one", "zebra")
    assert read_identity(weights).class_names == [*names, "zebra"]
    grown = load_cfg(str(config))
    assert list(config_classes(grown).names) == [*names, "zebra"]
    with pytest.raises(ValueError, match="has a class 'zebra' already"):
        imprint(grown, _model(grown), records, tmp_path / "two", "zebra")
    categories = [{"id": c, "name": n} for c, n in enumerate(["okapi", "zebra", *names], start=1)]
    content = {"images": [IMAGE], "annotations": [], "categories": categories}
    (tmp_path / "val.json").write_text(json.dumps(content))
    rows = [[f"{tmp_path.name}_val", str(tmp_path / "val.json"), str(tmp_path)]]
    data = ["DATASETS.FILES", repr(rows), "DATASETS.TEST", repr((rows[0][0],))]
    with pytest.raises(ClassListError, match=r"val\.json.*model_imprinted\.pth.*'okapi'"):
        load_cfg(str(config), data)
    weights, config = imprint(grown, _model(grown), records, tmp_path / "two", "okapi")
    load_cfg(str(config), data)
    assert MetadataCatalog.get(rows[0][0]).thing_classes == [*names, "zebra", "okapi"]
