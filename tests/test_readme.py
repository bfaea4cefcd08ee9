"""The README is a contract: its Python runs and the files that it names are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_runs(code, tmp_path, monkeypatch):
    (tmp_path / "my_mask_rcnn.yaml").write_text('MODEL:\n  WEIGHTS: ""\n')
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"\b(?:configs|tools|benchmarks|docs)/[\w./-]*\w", TEXT)))
)
def test_named_files_exist(path):
    assert (ROOT / path).exists()


def test_its_loss_table_lists_every_loss():
    from balms_det.losses import BOX_LOSS_REGISTRY

    for name, _ in BOX_LOSS_REGISTRY:
        assert f"| `{name}` |" in TEXT


def test_its_calibration_table_lists_every_calibration():
    from balms_det.modeling.calibration import CALIBRATION_REGISTRY

    for name, _ in CALIBRATION_REGISTRY:
        assert f"| `{name}` |" in TEXT
