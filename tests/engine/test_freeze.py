"""What trains in stage 2."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from balms_det.engine.trainer import freeze_all_but


def make_model():
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model.box_predictor = nn.Module()
    model.box_predictor.cls_score = nn.Linear(4, 3)
    model.box_predictor.bbox_pred = nn.Linear(4, 8)
    return model


def test_only_the_named_part_trains():
    model = freeze_all_but(make_model(), ["cls_score"])
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["box_predictor.cls_score.weight", "box_predictor.cls_score.bias"]


def test_frozen_batch_norm_does_not_move():
    model = freeze_all_but(make_model(), ["cls_score"]).train()
    norm = model.backbone[1]
    assert isinstance(norm, FrozenBatchNorm2d)
    before = norm.running_mean.clone()
    model.backbone(torch.randn(2, 3, 5, 5))
    assert torch.equal(norm.running_mean, before)


def test_batch_norm_of_a_trained_part_stays():
    model = freeze_all_but(make_model(), ["backbone"])
    assert isinstance(model.backbone[1], nn.BatchNorm2d)
    assert not model.box_predictor.cls_score.weight.requires_grad


def test_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="'cls_scores'"):
        freeze_all_but(make_model(), ["cls_scores"])
