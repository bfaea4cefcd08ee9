"""Two ranks on the CPU, as torchrun starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


CONFIG = ("--config-file", "configs/quickstart/stage1.yaml")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(*words):
    """A command that would run for minutes if a rank waited for one that is gone."""
    command = [sys.executable, *map(str, words)]
    # Detectron2's launcher takes as many GPUs as ranks where it sees one.
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **hidden, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_two_ranks_train_one_model(small_options, tmp_path):
    script = ("tools/train_net.py", *CONFIG, *small_options, "OUTPUT_DIR", tmp_path)
    done = run(*TORCHRUN, *script)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model_final.pth").exists()
    assert (tmp_path / "log.txt.rank1").exists()
    found = json.loads((tmp_path / "inference" / "lvis_instances_results.json").read_text())
    assert {entry["image_id"] for entry in found} == {25, 26, 27, 28}  # those of both ranks
    assert "APr" in json.loads((tmp_path / "results.json").read_text())["segm"]
    assert not list((tmp_path / "inference").glob("*.rank*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "how"), [("torchrun", "SIGKILL"), ("detectron2", "exception")]
)
def test_a_rank_that_dies_ends_the_job_with_its_error(launcher, how, small_options, tmp_path):
    script = (Path(__file__).with_name("dying_rank.py"), how, *CONFIG)
    launched = (*TORCHRUN, *script) if launcher == "torchrun" else (*script, "--num-gpus", 2)
    done = run(*launched, *small_options, "OUTPUT_DIR", tmp_path)
    assert done.returncode not in (0, None)
    assert "rank 1 dies" in done.stdout, done.stderr
    error = "rank 1 ran into an error of its own" if how == "exception" else "SIGKILL"
    assert error in done.stderr
    assert not (tmp_path / "model_final.pth").exists()
