"""Checkpoints of strangers: tensors and plain values come in, code does not."""

import io
import os
import pickle
import pickletools
import runpy
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import hooks
from torch import nn

from balms_det.engine import (
    LongTailCheckpointer,
    LongTailPredictor,
    LongTailTrainer,
    load_weights,
)
from balms_det.engine.safe_pickle import RefusedError, load_arrays
from balms_det.engine.weights_files import read_checkpoint, write_weights
from balms_det.trust import UntrustedFileError

ROOT = Path(__file__).parents[2]
ARRAYS = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">i4"),
    "half": np.ones((2, 1), np.float16),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.float64(2.5),
    "zero-dimensional": np.array(7),
    "text": np.array(["a", "bc"]),
}


class Attack:
    """Pickled, a call that makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def loot(tmp_path):
    """The folder that a successful attack makes."""
    return tmp_path / "loot"


def load(path):
    """What the project's checkpointer does with MODEL.WEIGHTS."""
    model = nn.Linear(3, 2)
    LongTailCheckpointer(model).load(str(path))
    return model.state_dict()


def write_attack(path, loot):
    content = {"model": {"weight": torch.ones(2, 3)}, "__author__": Attack(loot)}
    if path.suffix == ".pkl":
        content["model"] = {"weight": np.ones((2, 3), np.float32)}
        path.write_bytes(pickle.dumps(content))
    elif path.suffix == ".pyth":
        torch.save({"model_state": content["model"], "cfg": Attack(loot)}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=path.suffix == ".pth")
    return path


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.pyth", "a.old"])
def test_code_in_a_checkpoint_does_not_run(tmp_path, loot, name):
    path = write_attack(tmp_path / name, loot)
    with pytest.raises(UntrustedFileError, match=r"mkdir.*BALMS_DET_TRUST=pickle") as error:
        load(path)
    assert str(path) in str(error.value) and not loot.exists()


def test_the_attack_is_real(tmp_path, loot):
    path = write_attack(tmp_path / "a.pkl", loot)
    DetectionCheckpointer(nn.Linear(3, 2)).load(str(path))
    assert loot.exists()


@pytest.mark.parametrize("name", ["a.pth", "a.pkl"])
def test_the_guard_can_be_switched_off_and_says_so(tmp_path, loot, name, monkeypatch, caplog):
    monkeypatch.setenv("BALMS_DET_TRUST", "pickle")
    path = write_attack(tmp_path / name, loot)
    assert load(path)["weight"].tolist() == [[1.0] * 3] * 2
    assert loot.exists()
    assert "can run any program as you" in caplog.text and str(path) in caplog.text


def test_the_other_guards_do_not_open_this_one(tmp_path, loot, monkeypatch):
    monkeypatch.setenv("BALMS_DET_TRUST", "yaml,paths")
    with pytest.raises(UntrustedFileError):
        load(write_attack(tmp_path / "a.pth", loot))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_through_every_protocol(tmp_path, protocol):
    content = {"model": OrderedDict(ARRAYS), "__author__": "someone", "steps": (1, [None, b""])}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    loaded = load_arrays(tmp_path / "a.pkl")
    assert loaded["steps"] == content["steps"] and loaded["__author__"] == "someone"
    for name, expected in ARRAYS.items():
        actual = loaded["model"][name]
        assert actual.dtype.newbyteorder("=") == expected.dtype.newbyteorder("="), name
        assert actual.shape == np.shape(expected), name
        np.testing.assert_array_equal(actual, expected)


def test_arrays_of_python_2_and_numpy_1(tmp_path):
    """As the model zoo has them: text in place of bytes, and numpy's core under its old name."""
    raw = pickle.dumps({"w": np.arange(200, 203, dtype="u1")}, 2).replace(
        b"numpy._core", b"numpy.core"
    )
    (tmp_path / "a.pkl").write_bytes(raw)
    assert load_arrays(tmp_path / "a.pkl")["w"].tolist() == [200, 201, 202]
    python2 = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x02\xfe\x01tb."
    )
    (tmp_path / "b.pkl").write_bytes(python2)
    assert load_arrays(tmp_path / "b.pkl").tolist() == [254, 1]


@pytest.mark.parametrize(
    "content",
    [
        np.array([{}], dtype=object),
        np.zeros(2, dtype=[("a", "f4")]),
        np.ma.masked_array([1.0]),
        np.random.default_rng(0),
        Path("a"),
        {1, 2}.union,
        print,
        torch.zeros(1),
    ],
    ids=lambda content: type(content).__name__,
)
def test_nothing_else_is_admitted(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": content}))
    with pytest.raises(RefusedError):
        load_arrays(tmp_path / "a.pkl")


def test_a_dtype_cannot_lie_about_its_memory(tmp_path):
    """numpy itself would believe a float that says it holds Python objects."""
    raw = pickle.dumps(np.arange(2.0), 2)
    flags = next(  # the last number of the dtype's state
        position + 1
        for opcode, argument, position in pickletools.genops(raw)
        if opcode.name == "BININT1" and argument == 0 and position > raw.index(b"f8")
    )
    (tmp_path / "a.pkl").write_bytes(raw[:flags] + b"\x3f" + raw[flags + 1 :])
    assert load_arrays(tmp_path / "a.pkl").tolist() == [0.0, 1.0]


def test_broken_pickles_are_errors_of_their_own(tmp_path):
    whole = pickle.dumps({"model": ARRAYS, "__author__": "x"}, 2)
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


def test_a_training_run_may_save_numpy_scalars(tmp_path):
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        pytest.skip("torch before 2.6 admits no stand-ins")
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


def test_the_tool_refuses_in_one_line(tmp_path, loot, monkeypatch, capsys):
    write_attack(tmp_path / "a.pth", loot)
    assert convert(monkeypatch, tmp_path / "a.pth", tmp_path / "b.safetensors") == 1
    assert convert(monkeypatch, tmp_path / "gone.pth", tmp_path / "b.safetensors") == 1
    torch.save({"model": nn.Linear(3, 2).state_dict()}, tmp_path / "c.pth")
    assert convert(monkeypatch, tmp_path / "c.pth", tmp_path / "b.onnx") == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)
    assert not loot.exists() and not list(tmp_path.glob("b.*"))


def test_every_load_of_the_package_is_guarded():
    """No other file of ours calls torch.load or pickle.load."""
    calls = ("torch.load(", "pickle.load", "np.load(", "unsafe_load", "joblib")
    homes = {"weights_files.py", "safe_pickle.py"}
    folders = (ROOT / "balms_det", ROOT / "tools", ROOT / "benchmarks")
    files = [path for folder in folders for path in folder.rglob("*.py") if path.name not in homes]
    assert not [path for path in files if any(call in path.read_text() for call in calls)]


def test_torch_files_in_memory_are_no_way_around(tmp_path, loot):
    file = io.BytesIO()
    torch.save(Attack(loot), file)
    (tmp_path / "a.safetensors").write_bytes(file.getvalue())  # a wrong suffix changes nothing
    with pytest.raises(ValueError, match="safetensors"):
        read_checkpoint(tmp_path / "a.safetensors")
    assert not loot.exists()


def test_training_evaluation_and_prediction_are_guarded(make_cfg, tmp_path, loot):
    path = write_attack(tmp_path / "model_0000001.pth", loot)
    (tmp_path / "last_checkpoint").write_text(path.name)
    cfg = make_cfg("stage1.yaml", tmp_path, "MODEL.WEIGHTS", str(path))
    trainer = LongTailTrainer(cfg)
    saving = [hook for hook in trainer._hooks if isinstance(hook, hooks.PeriodicCheckpointer)]
    assert [hook.checkpointer for hook in saving] == [trainer.checkpointer]
    for load_all in (
        lambda: trainer.resume_or_load(resume=True),
        lambda: trainer.resume_or_load(resume=False),
        lambda: load_weights(cfg, trainer.model),
        lambda: LongTailPredictor(cfg),
    ):
        with pytest.raises(UntrustedFileError, match="mkdir"):
            load_all()
        trainer.checkpointer._parsed_url_during_load = None  # Detectron2 leaves it after an error
    assert not loot.exists()
