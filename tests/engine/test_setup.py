"""From command line and YAML to a config."""

import logging
from argparse import Namespace

import pytest
from detectron2.config import get_cfg
from detectron2.engine import default_setup, defaults

from balms_det import add_balms_config
from balms_det.engine import config
from balms_det.engine import launch as setup
from balms_det.engine.config import merge_opts
from balms_det.engine.launch import _files_written_whole


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


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(setup.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(setup.torch.cuda, "device_count", lambda: 1)


@pytest.mark.parametrize("processes", [1, 2])
def test_each_process_needs_a_gpu_of_its_own(cfg, one_gpu, monkeypatch, processes):
    monkeypatch.setattr(setup.comm, "get_local_size", lambda: processes)
    cfg.MODEL.DEVICE = "cpu"
    config._choose_device(cfg)
    cfg.MODEL.DEVICE = "cuda"
    if processes == 1:
        config._choose_device(cfg)
        assert cfg.MODEL.DEVICE == "cuda"
        return
    with pytest.raises(ValueError, match=r"2 processes .* with 1 GPU.* MODEL\.DEVICE to cpu"):
        config._choose_device(cfg)


@pytest.mark.parametrize(
    ("gpus", "backend"),
    [(0, "gloo"), (1, "gloo"), (2, "cpu:gloo,cuda:nccl"), (8, "cpu:gloo,cuda:nccl")],
)
def test_torchrun_gives_gpus_to_ranks_where_there_are_enough(monkeypatch, gpus, backend):
    """Fewer GPUs than ranks are no error here: the model may be on the CPU."""
    done = []
    for name, value in (
        ("TORCHELASTIC_RUN_ID", "x"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "2"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(setup.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(setup.torch.cuda, "set_device", lambda index: done.append(index))
    monkeypatch.setattr(setup.torch.distributed, "init_process_group", done.append)
    monkeypatch.setattr(setup.torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(setup.comm, "create_local_process_group", lambda size: None)
    setup.launch_main(done.append, "arguments")
    assert done == [*([1] if gpus >= 2 else []), backend, "arguments"]


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
