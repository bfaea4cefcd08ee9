"""Rows and tables of results."""

import json

import pytest

from balms_det.engine.run_record import write_results
from balms_det.evaluation.tables import format_table, read_row


def make_run(folder, ap, apr):
    folder.mkdir()
    results = {"segm": {"AP": ap, "APr": apr, "APc": 20.0, "APf": 30.0}}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "step.json").write_text(json.dumps({"seconds": 61.4}))
    return folder


def test_one_run_gives_plain_figures(tmp_path):
    row = read_row("Softmax", [make_run(tmp_path / "a", 12.34, 5.0)])
    cells = [cell.strip() for cell in format_table([row]).splitlines()[-1].strip("|").split("|")]
    assert cells == ["Softmax", "12.3", "5.0", "20.0", "30.0", "61"]


def test_several_runs_give_mean_and_standard_deviation(tmp_path):
    folders = [make_run(tmp_path / str(ap), ap, 4.0) for ap in (10.0, 12.0, 14.0)]
    assert "12.0 ± 2.0" in format_table([read_row("Softmax", folders)])


def test_an_undefined_group_is_shown_as_such(tmp_path):
    table = format_table([read_row("Softmax", [make_run(tmp_path / "a", 10.0, None)])])
    assert "| -" in table.replace("  ", "").replace("|-", "| -") or " - |" in table


def test_missing_task_names_the_file(tmp_path):
    folder = make_run(tmp_path / "a", 1.0, 1.0)
    with pytest.raises(KeyError, match=r"results\.json.*bbox"):
        read_row("Softmax", [folder], task="bbox")


def test_results_are_written_whole_and_undefined_ones_as_null(tmp_path):
    class Cfg:
        OUTPUT_DIR = str(tmp_path / "run")

    path = write_results(Cfg, {"segm": {"AP": 1.5, "APr": float("nan"), "APl": -100.0}})
    assert json.loads(path.read_text()) == {"segm": {"AP": 1.5, "APr": None, "APl": None}}
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
