"""Methods x seeds, and the command lines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from balms_det.classifier import Choices, make_recipe
from balms_det.classifier.recipe import Recipe
from balms_det.classifier.sweep import (
    add_missing_losses,
    find_methods,
    make_rows,
    plan_jobs,
    run_job,
    run_jobs,
    write_winner,
)
from balms_det.losses import BOX_LOSS_REGISTRY
from tests.engine.classifier.conftest import SOFTMAX, evaluated_by_the_detector
from tests.engine.conftest import CONFIGS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def jobs(source, small_options, detector, tmp_path):
    configs = [Path(SOFTMAX), CONFIGS / "losses" / "focal.yaml"]
    methods = find_methods(configs, source.cache, Choices(opts=small_options), tmp_path)
    bad = Choices(loss="NoLoss", opts=small_options)
    methods["bad"] = make_recipe(source.cache, SOFTMAX, bad, tmp_path)
    val = str(detector / "val")
    return plan_jobs(methods, [source.cache] * 2, [val] * 2, tmp_path)


@pytest.mark.slow
def test_a_sweep_reports_failures_and_writes_the_winner(jobs, tmp_path):
    told = []
    results, failures = run_jobs(jobs, 2, lambda job, result: told.append((job.label, result)))
    assert len(results) == 4 and len(told) == 6
    assert [(f.label, f.seed) for f in failures] == [("bad", 0), ("bad", 1)]
    assert "Unknown box loss 'NoLoss'" in failures[0].error
    rows = make_rows(jobs, results)
    assert rows[-1].label == "bad" and rows[-1].values["AP"] == [None, None]
    config = write_winner(jobs, rows, tmp_path, "AP")
    assert evaluated_by_the_detector(config)["AP"] == rows[0].values["AP"][0]


def test_finished_jobs_are_not_repeated(jobs):
    first = run_job(jobs[0])
    stamp = (Path(jobs[0].out) / "classifier.pth").stat().st_mtime_ns
    assert run_job(jobs[0]) == first
    assert (Path(jobs[0].out) / "classifier.pth").stat().st_mtime_ns == stamp
    job = jobs[0]
    longer = Recipe(job.recipe.config_file, (*job.recipe.opts, "SOLVER.MAX_ITER", "5"))
    again = run_job(type(job)(**{**vars(job), "recipe": longer}))
    assert again["inputs"] != first["inputs"] and again["losses"][-1][0] == 5


def test_all_losses_are_swept(source, small_options, tmp_path):
    choices = Choices(opts=small_options)
    methods = find_methods([Path(SOFTMAX)], source.cache, choices, tmp_path)
    add_missing_losses(methods, Path(SOFTMAX), source.cache, choices, tmp_path)
    names = {m.load().MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME for m in methods.values()}
    assert names == {name for name, _ in BOX_LOSS_REGISTRY}
    with pytest.raises(ValueError, match="another method of that name"):
        find_methods([Path(SOFTMAX)] * 2, source.cache, choices, tmp_path)


@pytest.mark.slow
def test_command_lines(detector, small_options, tmp_path):
    def run(tool, *words):
        command = [sys.executable, f"tools/{tool}.py", "--cache", str(detector / "train")]
        command += ["--eval-cache", str(detector / "val"), "--out", str(tmp_path), *words]
        return subprocess.run(
            [*command, "--", *small_options], cwd=ROOT, capture_output=True, text=True
        )

    config = ("--config-file", SOFTMAX)
    done = run("train_classifier", *config, "--loss", "FocalLoss", "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert "| FocalLoss |" in done.stdout and (tmp_path / "seed1" / "model_final.pth").exists()
    (entry,) = json.loads((tmp_path / "seed1" / "run.json").read_text())
    assert entry["features"] == str(detector / "train") and entry["config"]["SEED"] == 1
    failed = run("train_classifier", *config, "--loss", "NoLoss")
    assert failed.returncode == 1 and "error: Unknown box loss 'NoLoss'" in failed.stderr
    assert run("train_classifier", *config, "--seeds", "0").returncode == 2
    swept = run("sweep", "--methods", str(CONFIGS / "losses" / "focal.yaml"), "--seeds", "1")
    assert swept.returncode == 0, swept.stderr
    assert "| focal" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "methods.png").exists() and (tmp_path / "winner" / "config.yaml").exists()
