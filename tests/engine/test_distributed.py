"""Two ranks on the CPU, as torchrun starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_ranks_train_one_model(small_options, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "tools/train_net.py"]
    command += ["--config-file", "configs/quickstart/stage1.yaml", *small_options]
    command += ["OUTPUT_DIR", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model_final.pth").exists()
    assert (tmp_path / "log.txt.rank1").exists()
    found = json.loads((tmp_path / "inference" / "lvis_instances_results.json").read_text())
    assert {entry["image_id"] for entry in found} == {25, 26, 27, 28}  # those of both ranks
    assert "APr" in json.loads((tmp_path / "results.json").read_text())["segm"]
    assert not list((tmp_path / "inference").glob("*.rank*"))
