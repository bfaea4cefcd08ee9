"""tools/evaluate.py and tools/make_submission.py as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(tool, *arguments):
    command = [sys.executable, f"tools/{tool}.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """COCO-format ground truth and training set; two results files; a broken one."""
    folder = tmp_path_factory.mktemp("files")
    images = [{"id": n, "height": 40, "width": 40} for n in range(1, 14)]
    categories = [{"id": 1, "name": "bug"}, {"id": 2, "name": "owl"}]
    annotations = [
        {"id": n, "image_id": n, "category_id": c, "bbox": [4, 4, 9, 9], "area": 81}
        for n, c in zip(range(1, 14), [1] * 11 + [2] * 2)
    ]
    truth = {"images": images, "categories": categories, "annotations": annotations}
    good = [
        {**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.5 + a["id"] / 100}
        for a in annotations
    ]
    contents = {"gt": truth, "a": good[:-2], "b": good, "bad": [*good, {**good[0], "score": None}]}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return {name: folder / f"{name}.json" for name in contents}


def test_seeds_have_mean_and_spread(files, tmp_path):
    done = run("evaluate", files["gt"], files["a"], files["b"], "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| 2 runs | 75.0 ± 35.4 |" in done.stdout
    written = json.loads((tmp_path / "metrics_bbox.json").read_text())["metrics"]
    assert written["AP"]["values"] == [pytest.approx(50), pytest.approx(100)]
    assert written["APr"]["mean"] is None


def test_groups_are_counted_in_a_training_file(files):
    done = run("evaluate", files["gt"], files["a"], "--train-json", files["gt"])
    assert done.returncode == 0, done.stderr
    header, _, row = (line.split("|") for line in done.stdout.splitlines() if "|" in line)
    found = {name.strip(): value.strip() for name, value in zip(header, row)}
    assert (found["APr"], found["APc"], found["APf"]) == ("0.0", "100.0", "-")


def test_comparison(files, tmp_path):
    done = run(
        *("evaluate", files["gt"], "--compare", files["a"], files["b"]),
        *("--draws", 50, "--out", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 2 classes differ clearly" in done.stdout
    assert (tmp_path / "compare_bbox.csv").read_text().count("\n") == 7


def test_a_bad_file_is_one_line_or_a_warning(files):
    done = run("evaluate", files["gt"], files["bad"])
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"error: {files['bad']}, entry 13: it has a score that is not a number")
    done = run("evaluate", files["gt"], files["bad"], "--lenient")
    assert done.returncode == 0
    assert "WARNING" in done.stderr and "left out" in done.stderr


def test_submission_is_written_and_checked(files, tmp_path):
    done = run("make_submission", files["gt"], files["b"], "--out", tmp_path / "s.zip")
    assert done.returncode == 0, done.stderr
    assert "13 detections on 13 images; 0 images have none" in done.stdout
    done = run("make_submission", files["gt"], tmp_path / "s.zip")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 's.zip'}: no fault found\n")
    done = run("make_submission", files["gt"], files["bad"])
    assert done.returncode == 1
    assert "1 kinds of faults" in done.stdout and "entry 13" in done.stdout
