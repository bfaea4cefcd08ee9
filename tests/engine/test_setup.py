"""From command line and YAML to a config."""

import pytest
from detectron2.config import get_cfg

from balms_det import add_balms_config
from balms_det.engine.setup import merge_opts


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_balms_config(cfg)
    return cfg


def test_loss_arguments_from_the_command_line(cfg):
    merge_opts(cfg, ["MODEL.ROI_BOX_HEAD.CLS_LOSS.ARGS.TAU", "0.5"])
    assert cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.ARGS.TAU == 0.5


def test_other_new_keys_are_refused(cfg):
    with pytest.raises((KeyError, AssertionError), match="CLS_LOS"):
        merge_opts(cfg, ["MODEL.ROI_BOX_HEAD.CLS_LOS.NAME", "SoftmaxLoss"])


def test_an_odd_number_of_words_is_refused(cfg):
    with pytest.raises(ValueError, match="KEY VALUE"):
        merge_opts(cfg, ["MODEL.WEIGHTS"])
