"""YAMLs in the keys of the BALMS authors' code build their heads and losses."""

from pathlib import Path

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from balms_det import add_balms_config
from balms_det.data.class_stats import ClassStats
from balms_det.losses import BalancedSigmoidLoss, SigmoidLoss, build_box_loss
from balms_det.modeling import translate_authors_keys

YAMLS = Path(__file__).parents[1] / "assets" / "authors_yaml"


def _cfg(name):
    cfg = get_cfg()
    add_balms_config(cfg)
    cfg.merge_from_file(str(YAMLS / name))
    cfg.MODEL.DEVICE = "cpu"
    translate_authors_keys(cfg)
    return cfg


def _predictor(cfg):
    cfg.freeze()
    return build_model(cfg).roi_heads.box_predictor


def test_sigmoid_preset():
    cfg = _cfg("sigmoid.yaml")
    assert not cfg.MODEL.DECOUPLED.ENABLED
    predictor = _predictor(cfg)
    assert type(predictor.cls_loss) is SigmoidLoss
    assert predictor.cls_score.weight.shape == (1230, 8)
    start = predictor.cls_score.bias.sigmoid()
    torch.testing.assert_close(start, torch.full_like(start, 0.01))


def test_balanced_softmax_preset_with_the_frequencies_of_lvis():
    cfg = _cfg("balanced_softmax_decoupled.yaml")
    assert cfg.MODEL.DECOUPLED.ENABLED
    loss = _predictor(cfg).cls_loss
    assert type(loss) is BalancedSigmoidLoss and loss.prior_prob == 0.001
    stats = ClassStats.from_dataset("lvis_v0.5_train")
    frequency = torch.as_tensor(stats.image_frequency)
    present = frequency > 0
    expected = torch.log(frequency / (1 - frequency))
    torch.testing.assert_close(loss.offsets[present], expected[present])
    # And the loss itself, as their code writes it: shifted foreground rows, plain background.
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 1230), torch.tensor([3, 1230, 700, 1230, 1229, 0])
    direct = build_box_loss("BalancedSigmoidLoss", 1230, stats)
    shifted = torch.where((labels < 1230)[:, None], logits + direct.offsets, logits.double())
    target = torch.nn.functional.one_hot(labels, 1231)[:, :1230].double()
    bce = torch.nn.functional.binary_cross_entropy_with_logits(shifted, target, reduction="sum")
    torch.testing.assert_close(loss(logits, labels).double(), bce / 6, rtol=1e-6, atol=0)


def test_arguments_of_the_loss_still_apply():
    cfg = _cfg("balanced_softmax_decoupled.yaml")
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.ARGS.TAU = 0.0
    assert not _predictor(cfg).cls_loss.offsets.any()
    assert cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.ARGS == {"TAU": 0.0}


def test_meta_reweight_is_the_meta_reweighter_of_the_authors_code():
    cfg = _cfg("balanced_softmax_decoupled.yaml")
    cfg.MODEL.ROI_HEADS.NAME = "BALMSROIHeads"
    cfg.META_REWEIGHT = True
    translate_authors_keys(cfg)
    assert (cfg.META.NAME, cfg.META.LOSS, cfg.META.LR) == ("MetaReweighter", "reference", 0.01)
    assert type(_predictor(cfg).cls_loss) is BalancedSigmoidLoss
