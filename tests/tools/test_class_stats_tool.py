"""tools/class_stats.py as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _run(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "class_stats.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_prints_and_draws_a_dataset_of_a_config(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    content = {
        "images": [{"id": 1}],
        "categories": [{"id": 4, "name": "emu"}, {"id": 9, "name": "yak"}],
        "annotations": [{"image_id": 1, "category_id": 9}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    config = tmp_path / "my.yaml"
    config.write_text(f"DATASETS:\n  FILES: [[mine, {tmp_path}/a.json, {folder}]]\n")
    picture = tmp_path / "tail.png"
    result = _run("mine", "--config-file", str(config), "--plot", str(picture), "--per-class")
    assert result.returncode == 0, result.stderr
    assert "absent: emu" in result.stdout
    assert picture.stat().st_size > 1000


@pytest.mark.slow
def test_broken_json_is_one_line(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text("{")
    result = _run(str(path))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: {path} is not valid json")
