"""Calibrations on whole models: balms_det's heads, Detectron2's own, cascades."""

import copy
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import build_model

from balms_det.modeling.calibration import (
    CALIBRATION_REGISTRY,
    box_predictors,
    calibrate_model,
    check_calibrated,
)
from balms_det.modeling.calibration.attach import CalibratedPredictor, head_of

NUM_CLASSES = 5
NAMES = sorted(name for name, _ in CALIBRATION_REGISTRY)
STATS = SimpleNamespace(
    image_count=[50, 20, 9, 3, 0], instance_count=[90, 30, 9, 3, 0], num_images=60
)
TABLES = {
    "fractal_dimension": [1.7, 1.5, 1.6, 1.2, 1.0],
    "logit_mean": [-1.0, -1.5, -2.0, -4.0, -5.0],
    "logit_var": [2.0, 1.8, 1.5, 1.0, 0.9],
}


@pytest.fixture(autouse=True)
def counts_of_five(monkeypatch):
    monkeypatch.setattr("balms_det.modeling.calibration.attach.build_class_stats", lambda _: STATS)


def _options(name, **kwargs):
    needs = CALIBRATION_REGISTRY.get(name).needs_statistics
    return {"statistics": TABLES, **kwargs} if needs else kwargs


def _build(cfg, seed=3):
    torch.manual_seed(seed)
    return build_model(cfg).eval()


def _predict(model, batch):
    with torch.no_grad():
        return [output["instances"] for output in model(copy.deepcopy(batch))]


def _same(one, other):
    return all(
        torch.equal(a.scores, b.scores)
        and torch.equal(a.pred_classes, b.pred_classes)
        and torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        for a, b in zip(one, other)
    )


def _heads(cfg, name):
    cfg.MODEL.ROI_HEADS.NAME = name
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in name


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("heads", ["StandardROIHeads", "CascadeROIHeads"])
def test_detectron2s_own_model(tiny_cfg, batch, heads, sigmoid):
    _heads(tiny_cfg, heads)
    tiny_cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = sigmoid
    model = _build(tiny_cfg)
    keys = list(model.state_dict())
    plain = _predict(model, batch)
    for name in NAMES:
        nothing = CALIBRATION_REGISTRY.get(name).arguments_for(0.0)
        assert calibrate_model(model, name, STATS, **_options(name, **nothing)) is model
        assert _same(_predict(model, batch), plain), name
        some = CALIBRATION_REGISTRY.get(name).arguments_for(0.5)
        calibrate_model(model, name, STATS, **_options(name, **some))  # replaces the one before
        assert not _same(_predict(model, batch), plain), name
    assert list(model.state_dict()) == keys
    families = {head_of(predictor).family for predictor in box_predictors(model)}
    assert families == {"sigmoid" if sigmoid else "softmax"}
    assert _same(_predict(copy.deepcopy(model), batch), _predict(model, batch))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("CalibratedROIHeads", "StandardROIHeads"),
        ("CalibratedCascadeROIHeads", "CascadeROIHeads"),
        ("LongTailROIHeads", "StandardROIHeads"),
        ("LongTailCascadeROIHeads", "CascadeROIHeads"),
    ],
)
def test_heads_read_the_config(tiny_cfg, batch, ours, theirs):
    _heads(tiny_cfg, theirs)
    expected = calibrate_model(_build(tiny_cfg), "NorCal", STATS, gamma=0.4)
    tiny_cfg.MODEL.ROI_HEADS.NAME = ours
    plain = _build(tiny_cfg)
    assert not any(isinstance(p, CalibratedPredictor) for p in box_predictors(plain))
    tiny_cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME = "NorCal"
    tiny_cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.ARGS.GAMMA = 0.4
    found = _build(tiny_cfg)
    assert found.state_dict().keys() == plain.state_dict().keys()
    assert _same(_predict(found, batch), _predict(expected, batch))
    assert not _same(_predict(found, batch), _predict(plain, batch))


@pytest.mark.parametrize("loss", ["SigmoidLoss", "BalancedSigmoidLoss", "BalancedSoftmaxLoss"])
def test_heads_of_every_family(tiny_cfg, batch, monkeypatch, loss):
    monkeypatch.setattr("balms_det.modeling.box_predictor.build_class_stats", lambda _: STATS)
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = loss
    plain = _predict(_build(tiny_cfg), batch)
    tiny_cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME = "LogitAdjustment"
    model = _build(tiny_cfg)
    expected = "softmax" if "Softmax" in loss else "sigmoid"
    assert model.roi_heads.box_predictor.calibration.head.family == expected
    assert not _same(_predict(model, batch), plain)


def test_training_is_not_calibrated(tiny_cfg, run_model):
    _, expected, *_ = run_model(tiny_cfg)
    tiny_cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME = "NorCal"
    _, found, *_ = run_model(tiny_cfg)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_stages_of_a_cascade_have_their_own_statistics(tiny_cfg):
    _heads(tiny_cfg, "CascadeROIHeads")
    model = _build(tiny_cfg)
    stages = [{**TABLES, "logit_mean": [float(stage)] * NUM_CLASSES} for stage in range(3)]
    stages[1]["logit_var"] = [4.0] * NUM_CLASSES
    calibrate_model(model, "LogitNormalization", statistics={"stages": stages})
    scales = [predictor.calibration.scale[0].item() for predictor in box_predictors(model)]
    assert scales == pytest.approx([0.5**0.5, 0.5, 0.5**0.5])
    with pytest.raises(ValueError, match="statistics of 2 stages; the model has stage 2"):
        calibrate_model(model, "LogitNormalization", statistics={"stages": stages[:2]})


def test_models_that_cannot_be_calibrated(tiny_cfg):
    with pytest.raises(ValueError, match="Linear has no FastRCNNOutputLayers"):
        calibrate_model(torch.nn.Linear(2, 2), "NorCal", STATS)
    model = _build(tiny_cfg)
    model.roi_heads.box_predictor.cls_loss = torch.nn.Identity()
    with pytest.raises(ValueError, match="Identity makes its scores in another way"):
        calibrate_model(model, "NorCal", STATS)


def test_heads_that_ignore_the_config_are_noticed(tiny_cfg):
    tiny_cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    model = _build(tiny_cfg)
    check_calibrated(tiny_cfg, model)
    tiny_cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME = "NorCal"
    with pytest.raises(ValueError, match=r"StandardROIHeads does not read it.*CalibratedROIHeads"):
        check_calibrated(tiny_cfg, model)
    check_calibrated(tiny_cfg, calibrate_model(model, "NorCal", STATS))


def test_bad_config(tiny_cfg):
    node = tiny_cfg.MODEL.ROI_BOX_HEAD.CALIBRATION
    node.NAME = "Norcal"
    with pytest.raises(ValueError, match="Unknown calibration 'Norcal'"):
        build_model(tiny_cfg)
    node.NAME = "NorCal"
    node.ARGS.GAMA = 0.5
    with pytest.raises(TypeError, match="NorCal takes no gama"):
        build_model(tiny_cfg)
    node.ARGS.clear()
    node.NAME = "LogitNormalization"
    with pytest.raises(FileNotFoundError, match="STATISTICS"):
        build_model(tiny_cfg)
