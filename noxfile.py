"""The quick tests on every Python, the oldest and the newest torch, and other kernels, by `nox`.

    nox                                # all of them, one after another; 6 GB of downloads each
    nox -s quick-3.12 oldest_torch     # some; `nox -l` lists them
    nox --envdir /tmp/versions -- -x   # environments elsewhere; what follows `--` goes to pytest

Each session sets a new environment up as a user does, by `tools/setup_env.py`. An interpreter that
the machine does not have is skipped.
"""

from __future__ import annotations

import re
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PINS = ROOT / "constraints.txt"
# The oldest versions that setup.py admits of what the package computes with. numpy 1 goes with
# torch 2.0, which was built for it; Detectron2's wheel needs no other.
OLDEST = {
    "torch": "2.0.0",
    "torchvision": "0.15.1",
    "numpy": "1.23.5",
    "fvcore": "0.1.5.post20220119",
    "iopath": "0.1.9",
    "pycocotools": "2.0.6",
    "pillow": "10.1.0",
    "matplotlib": "3.7.0",
    "tabulate": "0.9.0",
    "msgspec": "0.18.0",
    "jinja2": "3.1.0",
    "hotcoco": "1.3.0",
    "safetensors": "0.4.0",
    "opencv-python-headless": "4.8.0.76",  # later ones are built for numpy 2
}
# The torch that the compiled part of Detectron2's wheel, `_C`, was built with, for Python 3.10.
COMPILED = {"torch": "2.3.1", "torchvision": "0.18.1"}
NEWEST = {"torch": None, "torchvision": None}

# What decides the last bits on a CPU, by name: the kernels of torch and of oneDNN, and threads.
KERNELS = {
    "best": {},
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "onednn_avx2": {"DNNL_MAX_CPU_ISA": "AVX2"},
}

nox.options.default_venv_backend = "venv"


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def quick(session: nox.Session) -> None:
    """The versions of constraints.txt."""
    quick_tests(session, {})


@nox.session(python="3.10")
def oldest_torch(session: nox.Session) -> None:
    """The oldest versions that setup.py admits."""
    quick_tests(session, OLDEST)


@nox.session(python="3.13")
def newest_torch(session: nox.Session) -> None:
    """The newest torch there is."""
    quick_tests(session, NEWEST)


@nox.session(python="3.10")
def compiled_detectron2(session: nox.Session) -> None:
    """Detectron2 with its compiled operators, as a build from a source tree has them."""
    quick_tests(session, COMPILED, before="import detectron2._C")


@nox.session(python="3.12")
@nox.parametrize("threads", [1, 2])
@nox.parametrize("kernels", list(KERNELS))
def kernels(session: nox.Session, kernels: str, threads: int) -> None:
    """The versions of constraints.txt, computing with other kernels and numbers of threads."""
    quick_tests(session, {}, env=KERNELS[kernels] | {"OMP_NUM_THREADS": str(threads)})


def quick_tests(
    session: nox.Session,
    other: dict[str, str | None],
    before: str = "",
    env: dict[str, str] | None = None,
) -> None:
    """Set up with other versions than constraints.txt's (None: whatever pip takes), and test."""
    pins = Path(session.create_tmp(), "constraints.txt")
    pins.write_text(pins_with(other))
    session.run("python", "tools/setup_env.py", "--here", "--constraints", str(pins))
    if before:
        session.run("python", "-c", f"import torch; {before}")
    session.run("python", "-m", "pytest", "-q", "-m", "not slow", *session.posargs, env=env)


def pins_with(other: dict[str, str | None]) -> str:
    """constraints.txt with these versions in place of its own."""
    lines = [
        line
        for line in PINS.read_text().splitlines()
        if re.split("[=;#]", line)[0].strip() not in other
    ]
    lines += [f"{name}=={version}" for name, version in other.items() if version]
    return "\n".join(lines) + "\n"
