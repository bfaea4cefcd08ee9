"""The set-up script: what it pins, what it keeps, and that it does nothing twice."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup_env(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "tools" / "setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "stamp.json")
    monkeypatch.setattr(module.sys, "argv", ["setup_env.py"])
    return module


def pretend_python(module):
    python = Path(module.venv_python())
    python.parent.mkdir(parents=True)
    python.touch()


def test_a_second_run_installs_nothing(setup_env, monkeypatch):
    calls = []
    monkeypatch.setattr(setup_env, "install", calls.append)
    monkeypatch.setattr(setup_env, "make_venv", lambda: pretend_python(setup_env))
    setup_env.main()
    assert len(calls) == 1
    setup_env.main()
    assert len(calls) == 1


def test_an_interrupted_installation_is_done_again(setup_env, monkeypatch):
    def interrupted(python):
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, "make_venv", lambda: None)
    monkeypatch.setattr(setup_env, "install", interrupted)
    pretend_python(setup_env)
    with pytest.raises(KeyboardInterrupt):
        setup_env.main()
    assert not setup_env.STAMP.exists()


def test_a_kept_detectron2_keeps_the_packages_it_came_with(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env, "installed_packages", lambda python: {"torch", "numpy"})
    pins = setup_env.pins_for("python", keep_installed=True)
    assert not re.search(r"^(torch|numpy)==", pins, re.MULTILINE)
    assert re.search(r"^torchvision==", pins, re.MULTILINE)
    assert re.search(r"^torch==", setup_env.pins_for("python", keep_installed=False), re.MULTILINE)


def test_old_python_is_told_what_to_do(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit, match="PYTHON="):
        setup_env.main()


def test_every_dependency_is_pinned():
    pinned = {
        re.split("[=;]", line)[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    wanted = re.findall(r'"([A-Za-z0-9_.-]+)[<>=]', (ROOT / "setup.py").read_text())
    assert wanted
    missing = {name.lower() for name in wanted} - pinned
    assert not missing


def test_the_detectron2_wheel_is_checked_against_its_sha256():
    text = (ROOT / "requirements-detectron2.txt").read_text()
    assert re.search(r"^sal-detectron2==0\.7\.2 --hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)
