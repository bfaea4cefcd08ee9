"""Checkpoints of every format: read, written, broken."""

import pickle
import runpy
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from balms_det.engine import LongTailCheckpointer
from balms_det.engine.weights_files import read_checkpoint, write_weights
from balms_det.utils.trust import UntrustedFileError
from tests.versions import needs_torch

ROOT = Path(__file__).parents[2]
WEIGHTS = {"weight": np.ones((3, 2), np.float32), "scale": np.float64(2.0)}


def load(path):
    """What the project's checkpointer does with MODEL.WEIGHTS."""
    model = nn.Linear(3, 2)
    LongTailCheckpointer(model).load(str(path))
    return model.state_dict()


def test_broken_pickles_are_errors_of_their_own(tmp_path):
    whole = pickle.dumps({"model": WEIGHTS, "__author__": "x"}, 2)
    rng = np.random.default_rng(0)
    for case in range(300):
        raw = bytearray(whole[: rng.integers(1, len(whole))] if case % 3 == 0 else whole)
        for position in rng.integers(0, len(raw), case % 4):
            raw[position] = rng.integers(256)
        (tmp_path / "a.pkl").write_bytes(raw)
        try:
            read_checkpoint(tmp_path / "a.pkl")
        except (ValueError, MemoryError):  # a length may have been made huge
            continue


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.safetensors", "a.pyth"])
def test_what_is_no_checkpoint_is_not_called_untrusted(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is no checkpoint")
    with pytest.raises(ValueError, match="or not all of it") as error:
        read_checkpoint(tmp_path / name)
    assert not isinstance(error.value, UntrustedFileError) and name in str(error.value)
    dump = {".pkl": lambda f: pickle.dump([1], f)}.get(
        Path(name).suffix, lambda f: torch.save([1], f)
    )
    if not name.endswith("safetensors"):
        with open(tmp_path / name, "wb") as file:
            dump(file)
        with pytest.raises(ValueError, match=r"not a dict of weights|no checkpoint of pycls"):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_a_cut_off_file_is_an_error_that_names_it(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_weights(path, {"model": nn.Linear(30, 20).state_dict()})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"not all of it") as error:
        load(path)
    assert path.name in str(error.value)


@needs_torch(2, 6, "no stand-ins are admitted")
def test_a_training_run_may_save_numpy_scalars(tmp_path):
    extra = {"best": np.float64(0.5), "step": np.int64(3), "curve": np.arange(2.0)}
    torch.save({"model": nn.Linear(3, 2).state_dict(), **extra}, tmp_path / "a.pth")
    loaded = LongTailCheckpointer(nn.Linear(3, 2)).load(str(tmp_path / "a.pth"))
    assert loaded["best"] == 0.5 and loaded["step"] == 3
    assert loaded["curve"].tolist() == [0.0, 1.0]


def test_detectrons_own_files_are_understood(tmp_path):
    blobs = {"conv1_w": np.ones((1, 1)), "conv1_w_momentum": np.ones((1, 1))}
    for content in (blobs, {"blobs": blobs, "cfg": "text"}):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, 2))
        ours, theirs = read_checkpoint(tmp_path / "a.pkl"), _detectron2_reads(tmp_path / "a.pkl")
        assert list(ours["model"]) == ["conv1_w"] == list(theirs["model"])
        assert {**ours, "model": 0} == {**theirs, "model": 0}


def _detectron2_reads(path):
    return DetectionCheckpointer(nn.Linear(1, 1))._load_file(str(path))


def test_matching_heuristics_can_be_asked_for(tmp_path):
    saved = {"fc.weight": torch.full((2, 3), 5.0), "fc.bias": torch.zeros(2)}
    torch.save(saved, tmp_path / "a.pth")
    model = nn.Sequential(OrderedDict(head=nn.Sequential(OrderedDict(fc=nn.Linear(3, 2)))))
    checkpointer = LongTailCheckpointer(model)
    checkpointer.load(f"{tmp_path}/a.pth?matching_heuristics=True")
    assert model.head.fc.weight.eq(5).all()
    with pytest.raises(ValueError, match=r"only [?]matching_heuristics"):
        LongTailCheckpointer(model).load(f"{tmp_path}/a.pth?unknown=1")


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_weights_survive_every_format(tmp_path, suffix):
    model = nn.Linear(3, 2)
    shared = {**model.state_dict(), "tied": model.weight.detach(), "count": torch.tensor(3)}
    checkpoint = {"model": shared, "__author__": "me", "iteration": 7}
    assert write_weights(tmp_path / f"a{suffix}", checkpoint) == ["iteration"]
    read = read_checkpoint(tmp_path / f"a{suffix}")
    assert read["__author__"] == "me" and read["model"].keys() == shared.keys()
    assert all(torch.equal(torch.as_tensor(v), shared[k]) for k, v in read["model"].items())
    assert torch.equal(load(tmp_path / f"a{suffix}")["weight"], model.weight)


def test_a_file_of_the_zoo_keeps_its_heuristics_as_safetensors(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"conv1_w": np.ones((1, 1), "f4")}, 2))
    write_weights(tmp_path / "a.safetensors", read_checkpoint(tmp_path / "a.pkl"))
    read = read_checkpoint(tmp_path / "a.safetensors")
    assert (read["__author__"], read["matching_heuristics"]) == ("Caffe2", True)


def convert(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["convert_checkpoint.py", *map(str, arguments)])
    return runpy.run_path(str(ROOT / "tools" / "convert_checkpoint.py"))["main"]()


def test_the_tool_converts_there_and_back(tmp_path, monkeypatch, capsys):
    model = nn.Linear(3, 2)
    torch.save({"model": model.state_dict(), "optimizer": {"lr": 1.0}}, tmp_path / "a.pth")
    assert convert(monkeypatch, tmp_path / "a.pth", tmp_path / "a.safetensors") == 0
    assert "2 tensors\nleft out: optimizer" in capsys.readouterr().out
    assert convert(monkeypatch, tmp_path / "a.safetensors", tmp_path / "b.pth") == 0
    assert torch.equal(load(tmp_path / "b.pth")["bias"], model.bias)


def test_the_tool_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    torch.save({"model": nn.Linear(3, 2).state_dict()}, tmp_path / "a.pth")
    torch.save({"model": {}, "from": Path("a")}, tmp_path / "b.pth")
    assert convert(monkeypatch, tmp_path / "b.pth", tmp_path / "out.safetensors") == 1
    assert convert(monkeypatch, tmp_path / "gone.pth", tmp_path / "out.safetensors") == 1
    assert convert(monkeypatch, tmp_path / "a.pth", tmp_path / "out.onnx") == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)
    assert not list(tmp_path.glob("out.*"))
