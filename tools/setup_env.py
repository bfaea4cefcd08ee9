#!/usr/bin/env python3
"""Set up everything that balms_det needs, from nothing. Standard library only.

    python3 tools/setup_env.py            # a virtual environment in .venv (what `make` runs)
    python tools/setup_env.py --here      # the environment that this Python belongs to

An installed Detectron2 is kept: with `--here` the one of this environment, otherwise the one that
the calling Python can import (the .venv then sees that Python's packages, its torch included).
Where there is none, the wheel of requirements-detectron2.txt is installed and its sha256 checked.
Running it again costs a fraction of a second as long as nothing that it reads has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "balms_det_setup.json"
CONSTRAINTS = ROOT / "constraints.txt"
INPUTS = ["setup.py", "constraints.txt", "requirements-detectron2.txt", "tools/setup_env.py"]
WHEEL = "sal-detectron2"
OLDEST = (3, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--here", action="store_true", help="install into this environment")
    parser.add_argument(
        "--constraints", type=Path, metavar="FILE", help="with --here: in place of constraints.txt"
    )
    args = parser.parse_args()
    if args.constraints and not args.here:
        parser.error("--constraints goes with --here: .venv has the versions of constraints.txt")
    if sys.version_info < OLDEST:
        sys.exit(
            f"balms_det needs Python {OLDEST[0]}.{OLDEST[1]} or newer, and {sys.executable} is "
            f"{sys.version.split()[0]}. Name another one: make demo PYTHON=python3.11"
        )
    if args.here:
        install(sys.executable, args.constraints or CONSTRAINTS)
        return
    stamp = fingerprint()
    if STAMP.exists() and STAMP.read_text() == stamp and Path(venv_python()).exists():
        return
    make_venv()
    install(venv_python())
    write_atomically(STAMP, stamp)


def fingerprint() -> str:
    """Digest of everything that decides what gets installed."""
    digest = hashlib.sha256(f"{sys.executable} {sys.version}".encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return json.dumps({"sha256": digest.hexdigest()})


def venv_python() -> str:
    return str(VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def works(python: str, module: str) -> bool:
    """Whether `python` exists and can import `module`."""
    if not Path(python).exists():
        return False
    return (
        subprocess.run([python, "-c", f"import {module}"], cwd=ROOT, capture_output=True).returncode
        == 0
    )


def make_venv() -> None:
    if works(venv_python(), "pip"):
        return
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    shared = works(sys.executable, "detectron2, torch")
    if shared:
        say("keeping the Detectron2 that this Python already has")
        command.insert(-1, "--system-site-packages")
    say(f"making a virtual environment in {VENV}")
    if subprocess.run(command).returncode != 0:
        sys.exit(
            "could not make a virtual environment; on Debian or Ubuntu: apt install python3-venv"
        )
    if shared and sys.prefix != sys.base_prefix:
        # This Python is a virtual environment itself, whose packages a new one does not see.
        line = f"import site; site.addsitedir({site_packages(sys.executable)!r})\n"
        Path(site_packages(venv_python()), "calling_environment.pth").write_text(line)


def install(python: str, pins: Path = CONSTRAINTS) -> None:
    """Install the package, its dependencies and, if there is none, Detectron2."""
    has_detectron2 = works(python, "detectron2, torch")
    keep = has_detectron2 and WHEEL not in installed_packages(python)
    extras = "torch,report,demo,lvis,test" + ("" if keep else ",detectron2")
    say("installing torch and the other packages (some GB on the first run)")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text(pins_for(python, keep_installed=keep, pins=pins))
        pip(python, "-c", str(constraints), "-e", f"{ROOT}[{extras}]")
        pip(python, "-c", str(constraints), "--no-deps", "lvis")
    if not has_detectron2:
        install_detectron2_wheel(python)
    elif keep:
        say("Detectron2 was already there and is kept, with the packages it came with")
    if not works(python, "balms_det"):
        subprocess.run([python, "-c", "import balms_det"], cwd=ROOT)
        sys.exit("the installation finished but `import balms_det` fails; see the error above")


def pins_for(python: str, keep_installed: bool, pins: Path = CONSTRAINTS) -> str:
    """The constraints; without the packages that must stay as they are beside a kept Detectron2."""
    text = pins.read_text()
    if not keep_installed:
        return text
    installed = installed_packages(python)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return "\n".join(line for line in lines if canonical(line.split("=")[0]) not in installed)


def installed_packages(python: str) -> set[str]:
    listing = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
    ).stdout
    return {canonical(package["name"]) for package in json.loads(listing)}


def site_packages(python: str) -> str:
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def install_detectron2_wheel(python: str) -> None:
    # The wheel is tagged for CPython 3.10, but its Python files run on every version from 3.8 on:
    # --python-version lets pip take it, --target puts it where `python` looks.
    say("installing Detectron2")
    pip(
        python,
        *("--no-deps", "--only-binary=:all:", "--python-version", "3.10", "--upgrade"),
        *("--target", site_packages(python), "--require-hashes"),
        *("-r", str(ROOT / "requirements-detectron2.txt")),
    )


def pip(python: str, *args: str) -> None:
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *args]
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        sys.exit(f"this command failed; run it again once its cause is gone:\n{' '.join(command)}")


def write_atomically(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


if __name__ == "__main__":
    main()
