"""Running the steps of the demo: each once, from where it stopped, with its progress shown.

Every step is an ordinary command of ``tools/`` that is printed before it runs, so that it can be
run again by hand. A step whose command and inputs have not changed since it finished is not
repeated; one that was interrupted resumes from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from balms_det import __version__
from balms_det.children import child_process, terminate_children
from balms_det.files import write_atomically

DATASET = Path("datasets/icons_lt")
PROGRESS = re.compile(r"eta: |Inference done|Traceback|Error: ")


@dataclass(frozen=True)
class Step:
    """One training run: its folder, its label, and the run whose weights it starts from."""

    name: str
    label: str
    start: str | None = None


def side_by_side(tasks: Iterable[Callable[[], None]]) -> None:
    """Do several things at once, on a core each: one small model makes little use of a second."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        started = [pool.submit(task) for task in tasks]
        try:
            for task in started:
                task.result()
        except (KeyboardInterrupt, SystemExit):
            pool.shutdown(wait=False, cancel_futures=True)
            while wait(started, timeout=0.1).not_done:  # one may only be starting
                terminate_children()
            raise


def train_side_by_side(root: Path, folder: Path, steps: list[Step], seed: int) -> None:
    """:func:`train` several steps at once."""
    side_by_side(partial(train, root, folder, step, seed, threads=1) for step in steps)


def train(root: Path, folder: Path, step: Step, seed: int, threads: int | None = None) -> None:
    """Run one step: not if it has finished with the same inputs, and from its last checkpoint if
    it was interrupted. What it left with other inputs is removed first."""
    target = folder / step.name
    command = train_command(folder, step, seed)
    inputs = fingerprint(root, command)
    record = read_record(target)
    if record["inputs"] == inputs and record["seconds"] is not None:
        print(f"[demo] {step.label}, seed {seed}: already done in {target}", flush=True)
        return
    if record["inputs"] != inputs and target.exists():
        print(f"[demo] {target} was made with other inputs: starting over", flush=True)
        shutil.rmtree(target)
    write_record(target, {"inputs": inputs, "seconds": None})
    started = time.time()
    run(root, command, label=f"{step.label}: ", threads=threads)
    write_record(target, {"inputs": inputs, "seconds": time.time() - started})


def train_command(folder: Path, step: Step, seed: int) -> list[str]:
    config = f"configs/quickstart/{step.name}.yaml"
    options = ["OUTPUT_DIR", str(folder / step.name), "SEED", str(seed)]
    if step.start:
        options += ["MODEL.WEIGHTS", str(folder / step.start / "model_final.pth")]
    else:
        options += ["DATASETS.TEST", "()"]  # only the rows of the table are evaluated
    return [sys.executable, "tools/train_net.py", "--config-file", config, "--resume", *options]


def read_record(target: Path) -> dict:
    path = target / "step.json"
    return json.loads(path.read_text()) if path.exists() else {"inputs": None, "seconds": None}


def write_record(target: Path, record: dict) -> None:
    write_atomically(target / "step.json", json.dumps(record))


def fingerprint(root: Path, command: list[str]) -> str:
    """Digest of a step's command, its configs, the dataset and the package's version."""
    words = [word.removeprefix(f"{root}/") for word in command[1:]]
    digest = hashlib.sha256(" ".join([__version__, *words]).encode())
    for path in sorted((root / "configs").glob("quickstart/*.yaml")):
        digest.update(path.read_bytes())
    digest.update((root / "configs/Base-LongTail-RCNN-FPN.yaml").read_bytes())
    digest.update((root / DATASET / "manifest.json").read_bytes())
    return digest.hexdigest()


def run(root: Path, command: list[str], label: str = "", threads: int | None = None) -> None:
    """Run a command from the checkout, showing its progress lines after ``label``.

    ``threads`` limits its OpenMP threads; None leaves them to the environment. It ends when this
    process does.

    Raises:
        RuntimeError: the command failed; the message has the last lines that it printed.
    """
    print(f"[demo] {' '.join(['python', *command[1:]])}", flush=True)
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    tail: list[str] = []
    with child_process(command, threads=threads, cwd=root, **output) as process:
        for line in process.stdout:
            tail = [*tail[-60:], line]
            if PROGRESS.search(line) or "train_net" not in command[1]:
                print(label + line, end="", flush=True)
    if process.returncode:
        raise RuntimeError(f"this step failed: {' '.join(command)}\n{''.join(tail)}")
