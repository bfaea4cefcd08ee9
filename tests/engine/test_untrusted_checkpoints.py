"""Checkpoints of strangers: tensors and plain values come in, code does not."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import hooks
from torch import nn

from balms_det.engine import LongTailCheckpointer, LongTailPredictor, LongTailTrainer, load_weights
from balms_det.engine.weights_files import read_checkpoint
from balms_det.utils.trust import UntrustedFileError

ROOT = Path(__file__).parents[2]


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
