"""Checkpoints of a run: whole or not there, and resumed from the newest whole one."""

import logging

import pytest
import torch
from torch import nn

from balms_det.engine.checkpoint import RunCheckpointer, fault_of
from balms_det.engine.hooks import keep_metrics_before

NAMES = ["model_0000002", "model_0000005", "model_final"]


class Counter:
    """What a checkpoint holds besides the model."""

    number = 0

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


@pytest.fixture
def run(tmp_path):
    """A folder with three checkpoints, and the checkpointer that wrote them."""
    checkpointer = RunCheckpointer(nn.Linear(20, 20), str(tmp_path), counter=Counter())
    for number, name in enumerate(NAMES):
        checkpointer.checkpointables["counter"].number = number
        checkpointer.save(name, iteration=number)
    return checkpointer


def cut_off(path, size=None):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 if size is None else size])


def flip_a_bit(path):
    """In the middle of a tensor: neither the zip's directory nor its pickle is touched."""
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["model"]["weight"].numpy().tobytes()
    content[bytes(content).index(weight) + 7] ^= 1
    path.write_bytes(content)


def resume(checkpointer):
    checkpointer.checkpointables["counter"].number = -1
    checkpointer.resume_or_load("", resume=True)
    return checkpointer.checkpointables["counter"].number


def test_the_last_checkpoint_is_resumed(run, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert resume(run) == 2
    assert not caplog.records
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["last_checkpoint", *(f"{name}.pth" for name in NAMES)]


@pytest.mark.parametrize("harm", [cut_off, lambda p: cut_off(p, 0), lambda p: p.unlink()])
def test_a_broken_last_checkpoint_falls_back_to_the_one_before(run, tmp_path, caplog, harm):
    harm(tmp_path / "model_final.pth")
    with caplog.at_level(logging.WARNING):
        assert resume(run) == 1
    assert "model_final.pth" in caplog.text and "model_0000005.pth" in caplog.text
    run.tag_last_checkpoint("model_0000005.pth")
    harm(tmp_path / "model_0000005.pth")
    assert resume(run) == 0


def test_a_bit_that_flipped_is_noticed(run, tmp_path, caplog):
    flip_a_bit(tmp_path / "model_final.pth")
    torch.load(tmp_path / "model_final.pth", weights_only=True)  # torch itself does not notice
    with caplog.at_level(logging.WARNING):
        assert resume(run) == 1
    assert "has changed since it was written" in caplog.text


def test_only_earlier_checkpoints_stand_in(run, tmp_path):
    """A later file is of another run, or of one that was resumed from further back."""
    run.tag_last_checkpoint("model_0000002.pth")
    cut_off(tmp_path / "model_0000002.pth")
    with pytest.raises(
        ValueError, match=r"model_0000002\.pth is cut off .* remove last_checkpoint"
    ):
        resume(run)


def test_an_empty_last_checkpoint_file(run, tmp_path, caplog):
    """As Detectron2's own checkpointer may leave it."""
    (tmp_path / "last_checkpoint").write_text("")
    with caplog.at_level(logging.WARNING):
        assert resume(run) == 1
    assert "last_checkpoint names no checkpoint" in caplog.text


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "a.pth").write_text("text")
    assert "is cut off or no checkpoint" in fault_of(tmp_path / "a.pth")


def test_a_failed_save_leaves_the_old_checkpoints(run, tmp_path, monkeypatch):
    def fill_the_disk(state, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    for name in ("model_final", "model_0000008"):
        with pytest.raises(OSError, match="No space"):
            run.save(name)
    assert len(list(tmp_path.iterdir())) == 4
    assert resume(run) == 2


def test_what_a_kill_left_is_removed(run, tmp_path):
    (tmp_path / ".model_0000008.pth.part").write_bytes(b"half")
    run.save("model_0000011")
    assert not list(tmp_path.glob(".*"))


LINES = [
    '{"iteration": 19, "x": 1}\n',
    '{"iteration": 39, "x": 2}\n',
    '{"iteration": 59, "x": 3}\n',
]


@pytest.mark.parametrize("torn", ["", '{"iteration": 6', '{"x": 1}\n', "[]\n"])
@pytest.mark.parametrize("start", [0, 19, 20, 40, 99])
def test_metrics_go_on_where_the_checkpoint_stood(tmp_path, start, torn):
    path = tmp_path / "metrics.json"
    path.write_text("".join(LINES) + torn)
    with path.open("a") as writer:  # as Detectron2 has it open
        keep_metrics_before(path, start)
        writer.write("new\n")
    kept = LINES[: sum(number < start for number in (19, 39, 59))]
    assert path.read_text() == "".join(kept) + "new\n"


def test_no_metrics_file_is_fine(tmp_path):
    keep_metrics_before(tmp_path / "metrics.json", 5)
    assert not list(tmp_path.iterdir())
