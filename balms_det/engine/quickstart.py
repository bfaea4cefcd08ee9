"""The main job on the embedded dataset: ``make demo``.

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from balms_det import __version__
from balms_det.evaluation.pictures import draw_comparison
from balms_det.evaluation.report import write_report
from balms_det.evaluation.table import Row, format_table, read_row
from balms_det.files import write_atomically

DATASET = Path("datasets/icons_lt")
PROGRESS = re.compile(r"eta: |Inference done|Traceback|Error: ")


@dataclass(frozen=True)
class Step:
    """One training run: its folder, its label, and the run whose weights it starts from."""

    name: str
    label: str
    start: str | None = None


STAGE1 = Step("stage1", "Stage 1")
# The rows of the table: they differ in the classifier that is trained on the same stage 1.
METHODS = [
    Step("stage2_softmax", "Softmax", start="stage1"),
    Step("stage2_balanced_softmax", "Balanced Softmax", start="stage1"),
    Step("stage2_meta_reweighter", "BALMS, Meta Reweighter", start="stage1"),
    Step("stage2_meta_sampler", "BALMS, Meta Sampler", start="stage1"),
]
# Rows that show where the differences between those come from.
ABLATION = [
    Step("stage2_balanced_softmax_cbs", "Balanced Softmax, CBS", start="stage1"),
    Step("stage2_balanced_softmax_meta_sampler", "Balanced Softmax, Meta Sampler", start="stage1"),
    Step("stage2_balanced_sigmoid", "Balanced Softmax, sigmoid form", start="stage1"),
    Step("stage2_balanced_sigmoid_cbs", "the same, CBS", start="stage1"),
]


def run_quickstart(root: Path, out: Path, seeds: int = 1, ablation: bool = False) -> list[Row]:
    """Make the dataset, train and evaluate every step for every seed, write table and pictures.

    Args:
        root: checkout that holds ``tools/`` and ``configs/``.
        out: folder of the results: ``seed0/<step>/``, ``table.md``, ``table.json``,
            ``predictions.png`` and ``report.html`` of the first seed.
        seeds: how many seeds; with more than one the table has mean and standard deviation.
        ablation: whether the table also has the rows of ``ABLATION``.

    Returns:
        The rows of the table.

    Raises:
        RuntimeError: a step failed; the message has the last lines that it printed.
    """
    steps = METHODS + ABLATION if ablation else METHODS
    make_dataset(root)
    folders = [out / f"seed{seed}" for seed in range(seeds)]
    for seed, folder in enumerate(folders):
        train(root, folder, STAGE1, seed)
        train_side_by_side(root, folder, steps, seed)
    rows = [read_row(step.label, [folder / step.name for folder in folders]) for step in steps]
    write_table(out, rows)
    draw_picture(root, out)
    write_page(root, out)
    return rows


def make_dataset(root: Path) -> None:
    run(root, [sys.executable, "tools/make_icons.py", "--out", str(DATASET)])


def train_side_by_side(root: Path, folder: Path, steps: list[Step], seed: int) -> None:
    """Run several steps at once, on a core each: one small model makes little use of a second."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        started = [pool.submit(train, root, folder, step, seed, threads=1) for step in steps]
        for step in started:
            step.result()


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
    digest = hashlib.sha256(" ".join([__version__, *command[1:]]).encode())
    for path in sorted((root / "configs").glob("quickstart/*.yaml")):
        digest.update(path.read_bytes())
    digest.update((root / "configs/Base-LongTail-RCNN-FPN.yaml").read_bytes())
    digest.update((root / DATASET / "manifest.json").read_bytes())
    return digest.hexdigest()


def run(root: Path, command: list[str], label: str = "", threads: int | None = None) -> None:
    """Run a command from the checkout, showing its progress lines after ``label``.

    ``threads`` limits its OpenMP threads; None leaves them to the environment.

    Raises:
        RuntimeError: the command failed; the message has the last lines that it printed.
    """
    print(f"[demo] {' '.join(['python', *command[1:]])}", flush=True)
    environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    tail: list[str] = []
    with subprocess.Popen(command, cwd=root, env=environment, **output) as process:
        for line in process.stdout:
            tail = [*tail[-60:], line]
            if PROGRESS.search(line) or "train_net" not in command[1]:
                print(label + line, end="", flush=True)
    if process.returncode:
        raise RuntimeError(f"this step failed: {' '.join(command)}\n{''.join(tail)}")


def write_table(out: Path, rows: list[Row]) -> None:
    text = format_table(rows)
    write_atomically(out / "table.md", text + "\n")
    write_atomically(out / "table.json", json.dumps([row.as_dict() for row in rows], indent=1))
    print(f"\nMask AP on {DATASET.name}, by frequency group of the class\n\n{text}\n", flush=True)


def first_results(out: Path) -> dict[str, Path]:
    """Results files of the methods' first seed."""
    return {
        step.label: out / "seed0" / step.name / "inference" / "lvis_instances_results.json"
        for step in METHODS
    }


def draw_picture(root: Path, out: Path) -> None:
    target = out / "predictions.png"
    draw_comparison(
        root / DATASET / "icons_lt_val.json",
        root / DATASET,
        first_results(out),
        target,
        title="Ground truth",
    )
    print(f"Predictions beside ground truth: {target}", flush=True)


def write_page(root: Path, out: Path) -> None:
    dataset = root / DATASET
    target = write_report(
        dataset / "icons_lt_val.json",
        first_results(out),
        out / "report.html",
        images=dataset,
        counts=str(dataset / "icons_lt_train.json"),
    )
    print(f"Class by class, to open in a browser: {target}", flush=True)
