"""The ground floor does without Detectron2, and evaluation without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What must not be importable is refused as if it were not installed.
BLOCKED = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])

sys.meta_path.insert(0, Absent())
"""
PLAIN = [
    "balms_det.annotations.images",
    "balms_det.annotations.polygons",
    "balms_det.annotations.summary",
    "balms_det.data",
    "balms_det.data.class_stats",
    "balms_det.data.repeat_factors",
    "balms_det.data.stats_report",
    "balms_det.evaluation",
    "balms_det.evaluation.compare",
    "balms_det.evaluation.runs",
    "balms_det.evaluation.submission",
    "balms_det.evaluation.tables",
    "balms_det.report",
]


def without(absent, code, *arguments):
    """Run Python code in a process that cannot import some packages."""
    whole = BLOCKED.format(absent=absent) + code
    return subprocess.run(
        [sys.executable, "-c", whole, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_evaluation_report_and_statistics_need_neither_torch_nor_detectron2():
    imports = "".join(f"import {name}\n" for name in PLAIN)
    done = without({"torch", "detectron2"}, imports + "print('torch' in sys.modules)")
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_losses_and_meta_learners_need_torch_only():
    code = """
import torch
import balms_det.meta
from balms_det.data import ClassStats
from balms_det.losses import build_box_loss
stats = ClassStats([50, 4], [60, 5], 80)
loss = build_box_loss("BalancedSoftmaxLoss", num_classes=2, class_stats=stats)
print(float(loss(torch.zeros(2, loss.num_logits), torch.tensor([0, 2]))) > 0)
"""
    done = without({"detectron2"}, code)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@pytest.mark.parametrize("absent", ["torch", "detectron2"])
@pytest.mark.parametrize("name", ["add_balms_config", "modeling"])
def test_what_needs_detectron2_says_what_is_missing(absent, name):
    done = without({absent}, f"from balms_det import {name}")
    assert done.returncode
    last = done.stderr.strip().splitlines()
    assert any(
        f"balms_det.{name}" in line and f"{absent} is not installed" in line for line in last
    )


def test_detectors_evaluator_says_that_detectron2_is_missing():
    done = without({"detectron2"}, "from balms_det.evaluation import LongTailEvaluator")
    assert "No module named 'detectron2" in done.stderr


@pytest.fixture
def files(tmp_path):
    box = [1.0, 1.0, 4.0, 4.0]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 16.0}
    annotation |= {"iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}
    image = {"id": 1, "width": 8, "height": 8, "file_name": "a.png"}
    image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    truth = {"images": [image], "categories": [{"id": 1, "name": "owl", "frequency": "r"}]}
    gt, results = tmp_path / "gt.json", tmp_path / "results.json"
    gt.write_text(json.dumps(truth | {"annotations": [annotation]}))
    result = {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5}
    results.write_text(json.dumps([result]))
    return gt, results


@pytest.mark.parametrize("tool", ["evaluate", "class_stats", "report"])
def test_tools_without_torch_and_detectron2(files, tmp_path, tool):
    gt, results = files
    words = {
        "evaluate": [gt, results, "--iou-type", "bbox"],
        "class_stats": [gt],
        "report": [
            *("--gt", gt, "--run", f"run={results}", "--iou-type", "bbox"),
            *("--out", tmp_path / "page.html"),
        ],
    }[tool]
    code = f"""
import runpy
sys.argv[0] = "tools/{tool}.py"
sys.path.insert(0, ".")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = without({"torch", "detectron2"}, code, *words)
    assert done.returncode == 0, done.stderr
    expected = {"evaluate": "100", "class_stats": "1 images", "report": "page.html"}[tool]
    assert expected in done.stdout
