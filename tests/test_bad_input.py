"""Whatever is wrong with an input, the error says which file, key or class, and what to do.

The cases are tables, one a room, in ``tests/bad_input``.
"""

import functools
import runpy
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from balms_det.annotations import summary as summary_cache
from balms_det.utils.command_line import describe
from tests.bad_input import (
    annotations,
    caches,
    checkpoints,
    config_names,
    configs,
    datasets,
    feature_caches,
    results,
    tools,
)
from tests.bad_input.documents import coco, fill, write

TOOLS = Path(__file__).parents[1] / "tools"
TABLES = {
    "dataset": datasets.CASES + annotations.CASES,
    "results": results.CASES,
    "config": configs.CASES + config_names.CASES,
    "checkpoint": checkpoints.CASES,
    "feature cache": feature_caches.CASES,
}
CASES = [pytest.param(c, id=f"{room}: {c.name}") for room, cs in TABLES.items() for c in cs]
COMMANDS = [pytest.param(c, id=f"{c.tool} {c.words}") for c in tools.COMMANDS]


@pytest.fixture(autouse=True)
def own_datasets():
    """Datasets that a case registers are removed."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.mark.parametrize("case", CASES)
def test_it_is_an_error_that_says_what_to_do(case, tmp_path):
    with pytest.raises(case.error) as caught:
        case.run(tmp_path)
    assert caught.type is case.error
    message = describe(caught.value)
    missing = [word for word in case.words if word not in message]
    assert not missing, f"{missing} not in: {message}"


def test_every_case_has_a_name_of_its_own_and_words():
    names = [param.id for param in CASES]
    assert len(set(names)) == len(names) >= 80
    assert all(case.words for cases in TABLES.values() for case in cases)


@functools.cache
def tool(name):
    """The ``main`` of a tool; that of the trainer takes arguments, and ``run`` is what parses."""
    names = runpy.run_path(str(TOOLS / f"{name}.py"))
    return names.get("run", names["main"])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_tool_ends_with_one_line(command, tmp_path, monkeypatch, capsys):
    words = command.words.format(*[fill(tmp_path)] * command.words.count("{}")).split()
    monkeypatch.setattr("sys.argv", [command.tool, *words])
    monkeypatch.chdir(tmp_path)
    try:
        status = tool(command.tool)()
    except SystemExit as ended:  # argparse
        status = ended.code
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == command.status, line
    assert "error: " in line
    missing = [word for word in command.says if word not in line]
    assert not missing, f"{missing} not in: {line}"


def test_every_tool_has_command_lines():
    assert {path.stem for path in TOOLS.glob("*.py")} - {"setup_env"} == {
        command.tool for command in tools.COMMANDS
    }


def test_a_traceback_on_demand(tmp_path, monkeypatch):
    monkeypatch.setenv("BALMS_DET_TRACEBACK", "1")
    monkeypatch.setattr("sys.argv", ["class_stats", str(tmp_path / "no.json")])
    with pytest.raises(FileNotFoundError):
        tool("class_stats")()


@pytest.mark.parametrize("damage", caches.DAMAGES.values(), ids=caches.DAMAGES)
def test_a_damaged_cache_is_counted_again(damage, tmp_path, monkeypatch):
    monkeypatch.setattr(summary_cache, "MIN_CACHED_BYTES", 0)
    monkeypatch.setattr(summary_cache, "_in_memory", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    path = write(tmp_path / "t.json", coco())
    right = summary_cache.annotation_summary(path)
    cache = Path(path + summary_cache.SUFFIX)
    cache.write_bytes(damage(cache.read_bytes()))
    summary_cache._in_memory.clear()
    assert summary_cache.annotation_summary(path) == right
