"""Weights between classifiers with and without a background output."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from balms_det.engine.checkpoint import LongTailCheckpointer, add_background, drop_background
from balms_det.losses import build_box_loss

CLASSES, WIDTH = 5, 7


class Predictor(nn.Module):
    def __init__(self, rows, box_rows=4 * CLASSES):
        super().__init__()
        self.cls_score = nn.Linear(WIDTH, rows)
        self.bbox_pred = nn.Linear(WIDTH, box_rows)


class Model(nn.Module):
    def __init__(self, rows, **kwargs):
        super().__init__()
        self.roi_heads = nn.Module()
        self.roi_heads.box_predictor = Predictor(rows, **kwargs)
        self.roi_heads.box_head = nn.Linear(3, WIDTH)


def save(model, path):
    torch.save({"model": model.state_dict()}, path)
    return str(path)


def load(model, path, **kwargs):
    LongTailCheckpointer(model, **kwargs).load(path)
    return model.roi_heads.box_predictor.cls_score


def test_softmax_weights_become_log_odds_against_background(tmp_path, caplog):
    softmax, sigmoid = Model(CLASSES + 1), Model(CLASSES)
    with caplog.at_level(logging.INFO, logger="balms_det"):
        loaded = load(sigmoid, save(softmax, tmp_path / "a.pth"))
    x = torch.randn(4, WIDTH)
    z = softmax.roi_heads.box_predictor.cls_score(x)
    torch.testing.assert_close(loaded(x), z[:, :-1] - z[:, -1:])
    assert "from 6 to 5 outputs" in caplog.text


def test_sigmoid_weights_gain_a_zero_background(tmp_path):
    sigmoid, softmax = Model(CLASSES), Model(CLASSES + 1)
    loaded = load(softmax, save(sigmoid, tmp_path / "a.pth"))
    x = torch.randn(4, WIDTH)
    expected = sigmoid.roi_heads.box_predictor.cls_score
    assert torch.equal(loaded.weight[:-1], expected.weight)
    assert torch.equal(loaded.bias[:-1], expected.bias)
    # A product with another number of columns may round otherwise.
    torch.testing.assert_close(loaded(x)[:, :-1], expected(x))
    assert loaded(x)[:, -1].abs().max() == 0


def test_there_and_back_keeps_the_log_odds():
    rows = torch.randn(CLASSES, WIDTH)
    torch.testing.assert_close(drop_background(add_background(rows)), rows, rtol=0, atol=0)


def test_same_size_is_loaded_as_it_is(tmp_path):
    saved, model = Model(CLASSES + 1), Model(CLASSES + 1)
    loaded = load(model, save(saved, tmp_path / "a.pth"))
    expected = saved.roi_heads.box_predictor.cls_score
    assert torch.equal(loaded.weight, expected.weight)


@pytest.mark.parametrize("box_rows_in_file", [4 * (CLASSES - 1), 4 * (CLASSES + 1)])
def test_a_file_with_other_classes_is_not_converted(tmp_path, box_rows_in_file):
    """One row less may mean one class less; the box regressor's size tells."""
    other, model = Model(CLASSES, box_rows=box_rows_in_file), Model(CLASSES + 1)
    before = model.roi_heads.box_predictor.cls_score.weight.clone()
    assert torch.equal(load(model, save(other, tmp_path / "a.pth")).weight, before)


def test_class_agnostic_regression_is_converted_too(tmp_path):
    softmax, sigmoid = Model(CLASSES + 1, box_rows=4), Model(CLASSES, box_rows=4)
    loaded = load(sigmoid, save(softmax, tmp_path / "a.pth"))
    assert torch.equal(loaded.bias, drop_background(softmax.roi_heads.box_predictor.cls_score.bias))


@pytest.mark.parametrize("background", [0, 1])
def test_another_layout_takes_over_the_rows_of_the_classes(tmp_path, background):
    """Seesaw's first extra output is no background, and the classes of BAGS are out of order."""
    saved = Model(CLASSES + background)
    stats = SimpleNamespace(
        image_count=[2000, 5, 50, 6, 500], instance_count=[2000, 5, 50, 6, 500], num_images=3000
    )
    for name in ("SeesawLoss", "BAGSLoss"):
        loss = build_box_loss(name, CLASSES, stats)
        model = Model(loss.num_logits)
        model.roi_heads.box_predictor.cls_loss = loss
        fresh = model.roi_heads.box_predictor.cls_score.weight.detach().clone()
        loaded = load(model, save(saved, tmp_path / f"{name}.pth")).weight
        classes = loss.class_columns
        expected = saved.roi_heads.box_predictor.cls_score.weight[:CLASSES]
        assert torch.equal(loaded[classes], expected)
        others = [row for row in range(loss.num_logits) if row not in classes.tolist()]
        assert torch.equal(loaded[others], fresh[others])


def test_another_layout_is_not_read_as_softmax(tmp_path):
    seesaw, softmax = Model(CLASSES + 2, box_rows=4), Model(CLASSES + 1, box_rows=4)
    softmax.roi_heads.box_predictor.cls_loss = build_box_loss("SoftmaxLoss", CLASSES)
    before = softmax.roi_heads.box_predictor.cls_score.weight.clone()
    assert torch.equal(load(softmax, save(seesaw, tmp_path / "a.pth")).weight, before)


def test_stage_2_refuses_a_file_without_the_frozen_parts(tmp_path):
    path = tmp_path / "backbone.pth"
    torch.save({"model": {"unrelated.weight": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="stage 1 checkpoint"):
        load(Model(CLASSES), str(path), require_all_but=["cls_score"])


def test_stage_2_may_lack_what_it_trains(tmp_path):
    saved = Model(CLASSES)
    weights = {k: v for k, v in saved.state_dict().items() if "cls_score" not in k}
    torch.save({"model": weights}, tmp_path / "a.pth")
    model = Model(CLASSES)
    load(model, str(tmp_path / "a.pth"), require_all_but=["cls_score"])
    assert torch.equal(model.roi_heads.box_head.weight, saved.roi_heads.box_head.weight)
