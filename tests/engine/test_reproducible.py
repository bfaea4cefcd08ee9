"""Same seed, same machine: the same weights and the same figures, to the last bit."""

import json
import os
import subprocess
import sys

import pytest
import torch

from balms_det.engine import LongTailTrainer, load_weights
from balms_det.utils.randomness import seed_generators
from tests.engine.conftest import CONFIGS


def train(cfg, seed):
    """A whole run in a process whose generators stand anywhere, as Detectron2 would seed them."""
    torch.randn(seed + 1)
    seed_generators(cfg.SEED)
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


def left_by(folder):
    """Weights and everything else in the checkpoint, what was logged, results and detections."""
    lines = (folder / "metrics.json").read_text().splitlines()
    metrics = [{k: v for k, v in json.loads(line).items() if "time" not in k} for line in lines]
    return (
        torch.load(folder / "model_final.pth", weights_only=True),
        [{key: repr(value) for key, value in line.items() if "eta" not in key} for line in metrics],
        (folder / "results.json").read_bytes(),
        (folder / "inference" / "lvis_instances_results.json").read_bytes(),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def runs(make_cfg, tmp_path_factory):
    """Two runs with one seed and one with another, in one folder after another."""
    folders = [tmp_path_factory.mktemp("run") for _ in range(3)]
    for number, (folder, seed) in enumerate(zip(folders, "334")):
        train(make_cfg("stage1.yaml", folder, "SEED", seed), number)
    return folders


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(runs):
    first, second, other = map(left_by, runs)
    assert all(same(a, b) for a, b in zip(first, second))
    assert not same(first[0]["model"], other[0]["model"]) and first[3] != other[3]


@pytest.mark.slow
def test_another_process_makes_the_same_run(runs, small_options, tmp_path):
    """With the command line, and another order of what Python hashes."""
    command = [sys.executable, "tools/train_net.py", "--config-file", str(CONFIGS / "stage1.yaml")]
    environment = {**os.environ, "PYTHONPATH": ".", "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [*command, *small_options, "OUTPUT_DIR", str(tmp_path)],
        cwd=CONFIGS.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert all(same(a, b) for a, b in zip(left_by(runs[0]), left_by(tmp_path)))
    assert (tmp_path / "run.json").exists()


@pytest.mark.slow
def test_evaluating_twice_gives_the_same_figures(runs, make_cfg, tmp_path):
    for name in ("once", "twice"):
        weights = str(runs[0] / "model_final.pth")
        cfg = make_cfg("stage1.yaml", tmp_path / name, "MODEL.WEIGHTS", weights)
        model = LongTailTrainer.build_model(cfg)
        load_weights(cfg, model)
        LongTailTrainer.test(cfg, model)
    for file in ("results.json", "inference/lvis_instances_results.json"):
        content = {
            (folder / file).read_bytes() for folder in (tmp_path / "once", tmp_path / "twice")
        }
        assert content == {(runs[0] / file).read_bytes()}
