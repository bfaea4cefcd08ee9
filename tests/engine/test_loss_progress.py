"""Losses with a schedule are told how far the training is."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from balms_det.engine import LongTailTrainer
from balms_det.engine.hooks import LossProgress, scheduled_losses
from balms_det.losses import build_box_loss
from balms_det.losses.pcb import EPOCHS

STATS = SimpleNamespace(image_count=[3, 0], instance_count=[3, 0], num_images=9)


@pytest.mark.parametrize("name", ["PCBLoss", "PCBSeesawLoss", "PCBEQLv2Loss"])
def test_soft_labels_start_when_their_epoch_comes(name):
    loss = build_box_loss(name, 2, STATS, start_epoch=12)
    hook = LossProgress(scheduled_losses(nn.Sequential(nn.Linear(2, 2), loss)))
    labels = torch.tensor([0, 2])
    loss(torch.zeros(2, loss.num_logits), labels)  # the one class that has images is seen
    shares = []
    for iteration in (0, 49, 50, 99):
        hook.trainer = SimpleNamespace(iter=iteration, max_iter=100)
        hook.before_step()
        shares.append(loss.shares(labels, torch.float32).tolist())
    alpha = pytest.approx([loss.soft_share, 0.0])
    assert shares[:2] == [[0.0, 0.0], [0.0, 0.0]] and shares[2] == alpha and shares[3] == alpha


def test_soft_labels_wait_for_every_class_with_images():
    loss = build_box_loss("PCBLoss", 2, STATS, start_epoch=0)
    loss(torch.zeros(1, 3), torch.tensor([2]))
    assert loss.shares(torch.tensor([0]), torch.float32).tolist() == [0.0]


def test_other_losses_have_no_schedule():
    assert scheduled_losses(nn.Sequential(build_box_loss("SoftmaxLoss", 2))) == []


@pytest.mark.slow
def test_the_trainer_tells_them(make_cfg, tmp_path):
    options = ("MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME", "PCBLoss", "DATASETS.TEST", "()")
    trainer = LongTailTrainer(make_cfg("stage1.yaml", tmp_path, *options))
    trainer.train()
    saved = torch.load(tmp_path / "model_final.pth", weights_only=False)["model"]
    prefix = "roi_heads.box_predictor.cls_loss"
    assert saved[f"{prefix}.epoch"] == EPOCHS * 3 / 4  # before the last of four iterations
    assert saved[f"{prefix}.num_inst_cnt"].sum() > 0
