"""The sessions of nox test what setup.py admits."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def values(path):
    """The literals that a file assigns to names."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def bounds():
    """Lower bounds of the packages in setup.py."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    return {name.lower(): bound for name, bound in re.findall(r'"([\w.-]+)>=([\d.]+)', text)}


@pytest.mark.parametrize(("name", "version"), values(ROOT / "noxfile.py")["OLDEST"].items())
def test_the_oldest_versions_are_those_of_setup_py(name, version):
    bound = bounds()[name]
    assert re.fullmatch(rf"{re.escape(bound)}(\.0|\.[a-z].*|\.\d+)*", version), bound


def test_every_python_is_tested():
    admitted = re.search(r">=3\.(\d+),<3\.(\d+)", (ROOT / "setup.py").read_text())
    pythons = [f"3.{minor}" for minor in range(*map(int, admitted.groups()))]
    decorators = re.search(r"python=\[(.*)\]", (ROOT / "noxfile.py").read_text())[1]
    assert re.findall(r"3\.\d+", decorators) == pythons
