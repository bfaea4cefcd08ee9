"""tools/report.py."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.evaluation.report_cases import make_case

TOOL = Path(__file__).parents[2] / "tools" / "report.py"


@pytest.fixture
def report(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            runpy.run_path(str(TOOL), run_name="__main__")
        return done.value.code

    return run


def test_it_writes_the_page_and_says_where(report, tmp_path, capsys):
    case = make_case(tmp_path, ["owl", "cat"], num_images=4)
    runs = [f"--run={name}={path}" for name, path in case.runs.items()]
    target = tmp_path / "out" / "r.html"
    assert report("--gt", case.gt, "--images", case.root, *runs, "--out", target) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_errors_are_one_line(report, tmp_path, capsys):
    gone = tmp_path / "gone.json"
    assert report("--gt", gone, "--run", f"a={gone}") == 1
    assert capsys.readouterr().err == f"error: Annotation file '{gone}' does not exist.\n"
    assert report("--gt", "x", "--run", "no-name") == 2
    assert "'no-name' is not NAME=RESULTS.json" in capsys.readouterr().err
    assert report("--gt", "x", "--run", "a=1", "--run", "a=2") == 2
    assert "same name" in capsys.readouterr().err
