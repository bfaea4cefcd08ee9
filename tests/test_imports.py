"""Imports inside the package go one way, from the doors down to utils."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "balms_det"
# What the files of each room may import from the package besides their own room.
ALLOWED = {
    "utils": set(),
    "losses": {"utils"},
    "meta": {"losses", "utils"},
    "annotations": {"utils"},
    "data": {"annotations", "config", "utils"},
    "evaluation": {"annotations", "config", "data", "utils"},
    "report": {"annotations", "data", "evaluation", "utils"},
    "modeling": {"config", "data", "losses", "meta", "utils"},
}
ALLOWED["engine"] = {*ALLOWED["modeling"], "modeling", "evaluation", "annotations"}
ALLOWED["features"] = {*ALLOWED["engine"], "engine"}
ALLOWED["classifier"] = {*ALLOWED["features"], "features", "__version__"}
ALLOWED["icons"] = {"annotations", "data", "utils"}
ALLOWED["workflows"] = {*ALLOWED["classifier"], "report", "icons"}
LOSSES_MAY_USE = {"torch", "numpy", PACKAGE}


def _imported(path):
    """Absolute names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folder = path.relative_to(ROOT).parts[:-1]
            base = ".".join(folder[: len(folder) + 1 - node.level]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def _rooms(path):
    """Rooms (sub-packages or top modules) of the package that a file imports."""
    parts = (name.split(".") for name in _imported(path))
    return {part[1] for part in parts if part[0] == PACKAGE and len(part) > 1}


def _files(room):
    return sorted((ROOT / PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize("room", [room for room in ALLOWED if (ROOT / PACKAGE / room).is_dir()])
def test_rooms_import_one_way(room):
    for path in _files(room):
        wrong = (_rooms(path) - ALLOWED[room] - {room}) & _all_rooms()
        assert not wrong, f"{path.relative_to(ROOT)} may not import {sorted(wrong)}"


def test_losses_need_torch_and_a_registry_only():
    for path in _files("losses"):
        for name in _imported(path):
            top = name.split(".")[0]
            legal = top in sys.stdlib_module_names or top in LOSSES_MAY_USE
            assert legal or name.startswith("fvcore.common.registry"), f"{path.name}: {name}"


def test_meta_and_modeling_read_only_class_stats_of_the_data():
    for path in [*_files("meta"), *_files("modeling")]:
        names = [name for name in _imported(path) if name.startswith(f"{PACKAGE}.data")]
        assert all(name.startswith(f"{PACKAGE}.data.class_stats") for name in names), path.name


def test_nothing_in_the_package_imports_tools():
    for path in (ROOT / PACKAGE).rglob("*.py"):
        assert not any(name.split(".")[0] == "tools" for name in _imported(path)), path.name


def test_every_room_has_its_rule():
    rooms = {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")}
    assert rooms <= ALLOWED.keys(), "say in ALLOWED what the new room may import"


def _all_rooms():
    entries = (ROOT / PACKAGE).iterdir()
    return {path.stem for path in entries if path.suffix == ".py" or path.is_dir()}
