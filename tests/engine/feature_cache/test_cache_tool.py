"""The command line of tools/cache_features.py."""

import runpy
import sys
from pathlib import Path

import pytest

from balms_det.features import FeatureCache

ROOT = Path(__file__).resolve().parents[3]
CONFIG = str(ROOT / "configs" / "quickstart" / "stage1.yaml")


@pytest.fixture
def tool(monkeypatch, small_options):
    def tool(*words):
        command = ["cache_features.py", "--config-file", CONFIG, *words[:-2], *small_options]
        monkeypatch.setattr(sys, "argv", [*command, *words[-2:]])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "tools" / "cache_features.py"), run_name="__main__")
        return ended.value.code

    return tool


def test_makes_a_cache(tool, cached, tmp_path):
    out, weights = str(tmp_path / "cache"), cached.cfg.MODEL.WEIGHTS
    options = ["--images", "4", "--views", "2", "--background", "3", "--dtype", "float32"]
    assert tool("--out", out, *options, "MODEL.WEIGHTS", weights) == 0
    manifest = FeatureCache.open(out).manifest
    assert (manifest.purpose, manifest.num_images, manifest.dtype) == ("train", 4, "float32")
    assert (manifest.views, manifest.augmented, manifest.background) == (2, True, 3)
    assert len(manifest.shards) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--images", "2", "MODEL.WEIGHTS", ""), "MODEL.WEIGHTS is empty"),
        (("--images", "2", "MODEL.WEIGHTS", "none.pth"), "there is no file 'none.pth'"),
        (("--background", "-2", "MODEL.WEIGHTS", ""), "background must be at least -1, got -2"),
        (("--dataset", "nobody", "MODEL.WEIGHTS", ""), "nobody"),
    ],
)
def test_says_what_is_wrong(tool, tmp_path, capsys, words, message):
    assert tool("--out", str(tmp_path / "cache"), *words) == 1
    error = capsys.readouterr().err
    assert "error: " in error and message in error.split("error: ")[1]
