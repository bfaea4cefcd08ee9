"""A new loss is a file and a YAML: nothing else names it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOSS = '''"""Cross-entropy whose logits are shrunk: a loss that only this test knows."""

from torch import nn

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.families import SoftmaxFamily


@BOX_LOSS_REGISTRY.register()
class ShrunkSoftmaxLoss(SoftmaxFamily):
    """Cross-entropy of ``strength * z``."""

    def __init__(self, num_classes, class_stats=None, *, strength: float = 0.5):
        super().__init__(num_classes, class_stats)
        self.strength = strength

    def per_roi(self, logits, gt_classes):
        return nn.functional.cross_entropy(self.strength * logits, gt_classes, reduction="none")
'''
YAML = """_BASE_: "../Base-LVISv1.yaml"
MODEL:
  ROI_BOX_HEAD:
    CLS_LOSS:
      NAME: "ShrunkSoftmaxLoss"
OUTPUT_DIR: "output/LVISv1/losses/shrunk"
"""


@pytest.mark.slow
def test_a_new_loss_needs_no_other_line(tmp_path):
    for name in ("balms_det", "configs", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "balms_det/losses/shrunk.py").write_text(LOSS)
    (tmp_path / "configs/LVISv1/losses/shrunk.yaml").write_text(YAML)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("tests/losses/test_loss_contract.py", "tests/configs/test_configs.py"),
            *("-k", "ShrunkSoftmaxLoss or shrunk"),
        ],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]
    passed = int(done.stdout.rsplit(" passed", 1)[0].rsplit(maxsplit=1)[-1])
    assert passed > 10 and "failed" not in done.stdout
