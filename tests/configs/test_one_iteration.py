"""Shipped configs begin to train from what their ``MODEL.WEIGHTS`` names; all of them do by
``python tests/configs/one_iteration.py``."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("one_iteration.py")
CONFIGS = SCRIPT.parents[2] / "configs"
V1 = "LVISv1/mask_rcnn"
# Every kind of start: each backbone, both stages, Mask and Cascade R-CNN, both versions of LVIS.
GROUPS = {
    "R-50": [f"{V1}_R_50_FPN_softmax_rfs", f"{V1}_R_50_FPN_balanced_softmax_stage2"],
    "R-101": [f"{V1}_R_101_FPN_sigmoid_rfs", f"{V1}_R_101_FPN_balms_stage2"],
    "X-101": [f"{V1}_X_101_32x8d_FPN_softmax_rfs"],
    "Cascade": [
        "LVISv1/cascade_mask_rcnn_R_50_FPN_sigmoid_rfs",
        "LVISv1/cascade_mask_rcnn_R_50_FPN_meta_sampler_stage2",
    ],
    "LVIS v0.5": [
        "LVISv0.5/mask_rcnn_R_50_FPN_sigmoid_rfs",
        "LVISv0.5/mask_rcnn_R_50_FPN_balms_stage2",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_shipped_configs_start(group):
    paths = [CONFIGS / f"{name}.yaml" for name in GROUPS[group]]
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [
        line.strip("| ").split(" | ") for line in done.stdout.splitlines() if ".yaml | " in line
    ]
    assert [row[0] for row in rows] == [f"{name}.yaml" for name in GROUPS[group]]
    for name, weights, loss, moved in rows:
        assert math.isfinite(float(loss))
        stage2 = "stage2" in name
        assert weights.startswith("output/" if stage2 else "detectron2://ImageNetPretrained/")
        assert (0 < int(moved) <= 6) if stage2 else int(moved) > 50
