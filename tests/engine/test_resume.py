"""Exact resume: N steps straight are k steps, a stop, and N - k steps. Kills are in tests/soak."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase
from PIL import Image

from balms_det.engine import LongTailTrainer, load_cfg
from balms_det.utils.randomness import seed_generators
from tests.soak.folders import differences

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "quickstart" / "stage1.yaml")
STEPS = 7


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Options for 10 upright and wide images of noise, with a rare class, repeats and pasting."""
    folder = tmp_path_factory.mktemp("uneven")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, 11):
        height, width = (64, 48) if i % 3 else (48, 64)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        for category, x in [(1, 4), (2, 26)][: 1 + (i == 4)]:
            square = {"bbox": [x, 8, 20, 20], "area": 400, "iscrowd": 0}
            square["segmentation"] = [[x, 8, x + 20, 8, x + 20, 28, x, 28]]
            ids = {"id": len(annotations) + 1, "image_id": i, "category_id": category}
            annotations.append({**ids, **square})
    categories = [{"id": 1, "name": "often"}, {"id": 2, "name": "seldom"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(content))
    rows = [[folder.name, str(folder / "train.json"), str(folder)]]
    options = {
        "DATASETS.FILES": repr(rows),
        "DATASETS.TRAIN": repr((folder.name,)),
        "DATASETS.TEST": "()",
        "DATALOADER.ASPECT_RATIO_GROUPING": "True",
        "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD": "0.5",
        "INPUT.COPY_PASTE.ENABLED": "True",
        "INPUT.MASK_FORMAT": "bitmask",
        "INPUT.MIN_SIZE_TRAIN": "(48, 56)",
        "SOLVER.IMS_PER_BATCH": "2",
        "SOLVER.MAX_ITER": str(STEPS),
        "SOLVER.CHECKPOINT_PERIOD": "3",
        "SOLVER.BASE_LR": "0.01",
        "SOLVER.WARMUP_ITERS": "1",
        "SEED": "3",
    }
    return [word for pair in options.items() for word in pair]


class StoppedError(Exception):
    """The run ends here."""


class Stop(HookBase):
    def __init__(self, after):
        self.after = after

    def after_step(self):
        if self.trainer.iter == self.after:
            raise StoppedError


def train(options, folder, *more, stop=None, resume=False, seed=3):
    """The trainer after a run, whose process would be seeded with ``seed`` as Detectron2 does."""
    seed_generators(seed)
    trainer = LongTailTrainer(load_cfg(CONFIG, [*options, "OUTPUT_DIR", str(folder), *more]))
    trainer.resume_or_load(resume=resume)
    trainer.register_hooks([Stop(stop)])
    with pytest.raises(StoppedError) if stop is not None else contextlib.nullcontext():
        trainer.train()
    return trainer


def final(folder):
    """Weights, optimiser, scheduler, iteration and loader, as the last checkpoint holds them."""
    return torch.load(folder / "model_final.pth", weights_only=True)


@pytest.fixture(scope="module")
def straight(uneven, tmp_path_factory):
    """The final state of runs without a stop, by the number of loader workers."""
    folders = {workers: tmp_path_factory.mktemp("straight") for workers in ("0", "2")}
    for workers, folder in folders.items():
        train(uneven, folder, "DATALOADER.NUM_WORKERS", workers)
    return {workers: final(folder) for workers, folder in folders.items()}


def test_workers_change_only_how_far_is_read_ahead(straight):
    differ = differences(straight["0"], straight["2"])
    assert differ and all(path.startswith(".trainer.data_loader") for path in differ)


def resumed(options, folder, *more):
    """The final state after going on from the last checkpoint, in a process seeded otherwise."""
    trainer = train(options, folder, *more, resume=True, seed=99)
    assert trainer.start_iter == 3
    return final(folder)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_stop_and_resume(uneven, straight, tmp_path, workers):
    more = ("DATALOADER.NUM_WORKERS", workers)
    train(uneven, tmp_path, *more, stop=4)
    assert differences(resumed(uneven, tmp_path, *more), straight[workers]) == []


def run_python(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_two_ranks_resume(uneven, tmp_path):
    """The file that rank 0 wrote puts both ranks back."""

    def train_two_ranks(folder, *flags):
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        script = ("tools/train_net.py", *flags, "--config-file", CONFIG)
        done = run_python(*launcher, *script, *uneven, "OUTPUT_DIR", folder)
        assert done.returncode == 0, done.stderr
        return final(folder)

    straight = train_two_ranks(tmp_path / "straight")
    (tmp_path / "resumed").mkdir()
    shutil.copy(tmp_path / "straight" / "model_0000002.pth", tmp_path / "resumed")
    (tmp_path / "resumed" / "last_checkpoint").write_text("model_0000002.pth")
    assert differences(train_two_ranks(tmp_path / "resumed", "--resume"), straight) == []


def test_without_the_loaders_state_the_data_start_over(uneven, straight, tmp_path, caplog):
    train(uneven, tmp_path, stop=4)
    path = tmp_path / "model_0000002.pth"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["trainer"]["data_loader"]
    torch.save(checkpoint, path)
    assert differences(resumed(uneven, tmp_path), straight["0"]) != []
    assert "does not say where its training data stood" in caplog.text


def test_the_comparison_finds_a_difference(straight):
    state = straight["0"]
    other = {**state, "model": {**state["model"]}}
    name = next(iter(other["model"]))
    other["model"][name] = other["model"][name] + 1e-6
    assert differences(state, other) == [f".model.{name}"]


def test_a_run_killed_just_before_its_last_file_gets_it(uneven, straight, tmp_path):
    """After the last iteration there is none left in which Detectron2 would save model_final."""
    options = [*uneven, "SOLVER.CHECKPOINT_PERIOD", str(STEPS)]
    train(options, tmp_path)
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text(f"model_{STEPS - 1:07d}.pth")
    train(options, tmp_path, resume=True, seed=99)
    assert differences(final(tmp_path), straight["0"]) == []
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
