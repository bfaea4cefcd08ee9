"""A kill or more of every job (``python -m tests.soak`` makes many), and that faults are found."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.soak.folders import differences, faults_in
from tests.soak.jobs import JOBS
from tests.soak.kills import KINDS, Length

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_killed_runs_end_as_uninterrupted_ones(tmp_path):
    command = [sys.executable, "-m", "tests.soak", "--kills", "1", "--out", str(tmp_path / "soak")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    killed = dict(re.findall(r"^(\w+): (\d+) kills", done.stdout, re.MULTILINE))
    assert list(killed) == list(JOBS) and all(int(number) >= 1 for number in killed.values())
    shared = tmp_path / "soak" / "shared"
    states = {name: final(shared / name) for name in ("stage1", "stage2", "reweighter", "sampler")}
    # What must be restored has moved: a loss's state, the learner, the rates that draw images.
    assert any("confusion" in name for name in states["stage1"]["model"])
    for name in ("reweighter", "sampler"):
        theta = states[name]["trainer"]["_trainer"]["meta_step"]["learner.theta"]
        assert theta.abs().max() > 0
    assert len(set(states["sampler"]["trainer"]["data_loader"]["sampler"]["rates"].tolist())) > 1
    assert (shared / "sampler" / "meta_rates.png").exists()


def final(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)


SCRIPT = """
import sys
from pathlib import Path
from tests.soak.kills import Counter, Kill

def work(folder):
    for number in range(3):
        with open(folder / str(number), "wb") as file:
            file.write(b"x" * 10)

counter = Counter(Kill(*eval(sys.argv[2])))
counter.start()
work(Path(sys.argv[1]))
sys.setprofile(None)
print(counter.files)
"""


def sizes_after(kill, folder):
    command = [sys.executable, "-c", SCRIPT, str(folder), repr(kill)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done, [path.stat().st_size for path in sorted(folder.iterdir())]


@pytest.mark.parametrize(
    ("kill", "code", "sizes"),
    [
        (("file", 2), -signal.SIGKILL, [10]),
        (("call", 1), -signal.SIGKILL, []),
        (("write", 2, 4), -signal.SIGXFSZ, [10, 4]),
        (("write", 1, 10), 0, [10, 10, 10]),
        (("file", 4), 0, [10, 10, 10]),
    ],
)
def test_a_process_ends_at_its_moment(kill, code, sizes, tmp_path):
    done, found = sizes_after(kill, tmp_path)
    assert (done.returncode, found) == (code, sizes), done.stderr
    assert code or done.stdout == "3\n"


def test_moments_are_drawn_over_the_whole_run():
    rng = np.random.default_rng(0)
    length = Length(calls=1000, files=30, largest=500)
    kills = [length.draw(rng) for _ in range(600)]
    again = np.random.default_rng(0)
    assert kills == [length.draw(again) for _ in range(600)]
    assert {kill.kind for kill in kills} == set(KINDS)
    assert {kill.at for kill in kills if kill.kind == "file"} == set(range(1, 31))
    sizes = [kill.size for kill in kills if kill.kind == "write"]
    assert min(sizes) < 10 and 400 < max(sizes) <= 500


@pytest.fixture
def folders(tmp_path):
    """A finished run's folder, and a copy of it."""
    reference, folder = tmp_path / "reference", tmp_path / "folder"
    reference.mkdir()
    torch.save({"model": {"weight": torch.arange(5.0)}}, reference / "model_final.pth")
    (reference / "last_checkpoint").write_text("model_final.pth")
    (reference / "results.json").write_text('{"AP": 1.5}')
    (reference / "config.yaml").write_text(f"OUTPUT_DIR: {reference}\n")
    (reference / "metrics.json").write_text('{"iteration": 19}\n{"iteration": 39}\n')
    shutil.copytree(reference, folder)
    (folder / "config.yaml").write_text(f"OUTPUT_DIR: {folder}\n")
    return folder, reference


def test_a_copy_has_no_fault(folders):
    folder, _ = folders
    (folder / ".model_0000009.pth.part").write_bytes(b"half")
    (folder / "results.json.part").write_bytes(b"half")
    assert faults_in(*folders, finished=True) == []


@pytest.mark.parametrize("name", ["model_final.pth", "results.json", "config.yaml"])
def test_half_a_file_is_found(folders, name):
    path = folders[0] / name
    path.write_bytes(path.read_bytes()[:-2])
    for finished in (True, False):
        (fault,) = faults_in(*folders, finished=finished)
        assert name in fault and ("not whole" in fault or "differs" in fault)


def test_other_weights_are_found(folders):
    state = {"model": {"weight": torch.arange(5.0) + torch.tensor([0, 0, 0, 1e-6, 0])}}
    torch.save(state, folders[0] / "model_final.pth")
    assert faults_in(*folders, finished=False) == ["model_final.pth differs.model.weight"]
    assert differences({"a": torch.ones(2)}, {"a": torch.ones(2, dtype=torch.double)}) == [".a"]


def test_a_file_too_few_or_too_many_is_found(folders):
    (folders[0] / "results.json").rename(folders[0] / "model_0000003.pth")
    too_many = "model_0000003.pth is not in the uninterrupted run"
    assert faults_in(*folders, finished=False) == [too_many]
    assert faults_in(*folders, finished=True) == [too_many, "results.json is missing"]


def test_what_notes_every_start_must_be_json(folders):
    for folder, content in zip(folders, ('[{"start": 1}, {"start": 2}]', '[{"start": 0}]')):
        (folder / "run.json").write_text(content)
    assert faults_in(*folders, finished=True) == []
    (folders[0] / "run.json").write_text('[{"start"')
    assert "run.json is not whole" in faults_in(*folders, finished=True)[0]


def test_last_checkpoint_may_move_but_names_a_file(folders):
    (folders[0] / "last_checkpoint").write_text("model_fin")
    assert faults_in(*folders, finished=False) == ["last_checkpoint names 'model_fin'"]


def test_a_record_that_is_there_twice_is_found(folders):
    with open(folders[0] / "metrics.json", "a") as file:
        file.write('{"iteration": 39}\n')
    assert faults_in(*folders, finished=True) == [
        "metrics.json records [19, 39, 39] and not [19, 39]"
    ]
