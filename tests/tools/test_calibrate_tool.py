"""The command line: what it parses, and that a user's mistake is one line."""

import runpy
from pathlib import Path

import pytest

TOOL = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "calibrate.py"))


def _run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["calibrate.py", *words])
    return TOOL["main"]()


def test_words_become_options(monkeypatch, tmp_path):
    seen = {}
    names = TOOL["parse_args"].__globals__
    monkeypatch.setitem(names, "load_cfg", lambda *args: args)
    monkeypatch.setitem(names, "calibrate", lambda *args, **kwargs: seen.update(a=args, k=kwargs))
    words = ["--config-file", "a.yaml", "--out", str(tmp_path), "--calibration", "NorCal,FRACAL"]
    words += ["--strengths", "0.2,0.4", "--images", "7", "--metric", "APr", "--bake"]
    assert _run(monkeypatch, *words, "MODEL.WEIGHTS", "m.pth") == 0
    cfg, out, options = seen["a"]
    assert cfg == ("a.yaml", ["MODEL.WEIGHTS", "m.pth"]) and out == tmp_path
    assert (options.names, options.strengths) == (["NorCal", "FRACAL"], [0.2, 0.4])
    assert (options.num_images, options.metric, options.dataset) == (7, "APr", "")
    opts = ["MODEL.WEIGHTS", "m.pth"]
    assert seen["k"] == {"config_file": "a.yaml", "opts": opts, "bake": True}


@pytest.mark.parametrize("words", [["--strengths", "much"], []])
def test_mistakes_are_one_line(monkeypatch, tmp_path, capsys, words):
    (tmp_path / "a.yaml").write_text("MODEL:\n  DEVICE: cpu\n")
    config = ["--config-file", str(tmp_path / "a.yaml")]
    assert _run(monkeypatch, *config, "--out", str(tmp_path / "out"), *words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
