"""From command line and YAML to a config."""

import logging
from argparse import Namespace

import pytest
from detectron2.config import get_cfg
from detectron2.engine import default_setup, defaults

from balms_det import add_balms_config
from balms_det.engine.setup import _files_written_whole, merge_opts


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


def test_config_yaml_is_never_half_written(cfg, tmp_path, monkeypatch):
    """Detectron2 opens the file before it makes the text, which takes a while."""
    cfg.OUTPUT_DIR = str(tmp_path)
    # The real one changes the loggers of all tests that follow.
    monkeypatch.setattr(defaults, "setup_logger", lambda *args, **keys: logging.getLogger("test"))
    with _files_written_whole():
        default_setup(cfg, Namespace(config_file=""))
    before = (tmp_path / "config.yaml").read_text()
    assert "OUTPUT_DIR" in before
    with monkeypatch.context() as patch, _files_written_whole():
        texts = iter(["for the log"])
        patch.setattr(type(cfg), "dump", lambda self: next(texts))
        with pytest.raises(StopIteration):
            default_setup(cfg, Namespace(config_file=""))
    assert (tmp_path / "config.yaml").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
