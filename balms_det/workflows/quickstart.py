"""The main job on the embedded dataset: ``make demo``.

Mask AP comes from runs through the detector. Beside them, many more classifiers are trained from
the features that its first stage 1 gives, in seconds each, and compared by box AP.

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
from balms_det.evaluation.tables import Row, format_table, read_row
from balms_det.report import write_report
from balms_det.utils.children import child_process, terminate_children
from balms_det.utils.files import write_atomically
from balms_det.workflows.draw import draw_comparison

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


STAGE1 = Step("stage1", "Stage 1")
# The rows of the table: they differ in the classifier that is trained on the same stage 1.
METHODS = [
    Step("stage2_softmax", "Softmax", start="stage1"),
    Step("stage2_balanced_softmax", "Balanced Softmax", start="stage1"),
]
# More rows: BALMS, and what shows where the differences come from.
ABLATION = [
    Step("stage2_meta_reweighter", "BALMS, Meta Reweighter", start="stage1"),
    Step("stage2_meta_sampler", "BALMS, Meta Sampler", start="stage1"),
    Step("stage2_balanced_softmax_cbs", "Balanced Softmax, CBS", start="stage1"),
    Step("stage2_balanced_softmax_meta_sampler", "Balanced Softmax, Meta Sampler", start="stage1"),
    Step("stage2_balanced_sigmoid", "Balanced Softmax, sigmoid form", start="stage1"),
    Step("stage2_balanced_sigmoid_cbs", "the same, CBS", start="stage1"),
]
# Configs of the classifiers that are trained from cached features.
CACHED = [
    "stage2_softmax",
    "stage2_balanced_softmax",
    "stage2_meta_reweighter",
    "stage2_meta_sampler",
    "losses/logit_adjusted",
    "losses/seesaw",
    "losses/eqlv2",
    "losses/ecm",
    "classifier/crt",
    "classifier/tau_norm",
]


def run_quickstart(root: Path, out: Path, seeds: int = 1, ablation: bool = False) -> list[Row]:
    """Make the dataset, train and evaluate every step for every seed, write table and pictures.

    Args:
        root: checkout (absolute) that holds ``tools/`` and ``configs/``.
        out: folder of the results: ``seed0/<step>/``, ``table.md``, ``table.json`` and, of the
            first seed, ``predictions.png``, ``report.html`` and ``sweep/``.
        seeds: how many seeds; with more than one the table has mean and standard deviation.
        ablation: whether the table also has the rows of ``ABLATION``.

    Returns:
        The rows of the table.

    Raises:
        RuntimeError: a step failed; the message has the last lines that it printed.
    """
    out = Path(out).absolute()  # the steps run in another folder than the caller
    steps = METHODS + ABLATION if ablation else METHODS
    make_dataset(root)
    folders = [out / f"seed{seed}" for seed in range(seeds)]
    for seed, folder in enumerate(folders):
        train(root, folder, STAGE1, seed)
        train_side_by_side(root, folder, steps, seed)
    cache_features(root, folders[0])
    compare_from_cache(root, folders[0], out / "sweep")
    rows = [read_row(step.label, [folder / step.name for folder in folders]) for step in steps]
    write_table(out, rows)
    draw_picture(root, out)
    write_page(root, out)
    return rows


def make_dataset(root: Path) -> None:
    run(root, [sys.executable, "tools/make_icons.py", "--out", str(DATASET)])


def cache_features(root: Path, folder: Path) -> None:
    """Keep what the classifier of a seed's stage 1 reads, of both sets of images."""
    weights = str(folder / STAGE1.name / "model_final.pth")
    command = [sys.executable, "tools/cache_features.py"]
    command += ["--config-file", f"configs/quickstart/{STAGE1.name}.yaml"]
    side_by_side(
        partial(
            run,
            root,
            [*command, "--purpose", purpose, "--out", str(target), "MODEL.WEIGHTS", weights],
            threads=1,
        )
        for purpose, target in cache_folders(folder).items()
    )


def cache_folders(folder: Path) -> dict[str, Path]:
    """A seed's caches by purpose; they go when its stage 1 is made anew."""
    stage1 = folder / STAGE1.name
    return {"train": stage1 / "cache_train", "eval": stage1 / "cache_val"}


def compare_from_cache(root: Path, folder: Path, target: Path) -> None:
    """Train and compare the classifiers of ``CACHED`` on a seed's caches; box AP."""
    caches = cache_folders(folder)
    command = [sys.executable, "tools/sweep.py", "--seeds", "1", "--out", str(target)]
    command += ["--cache", str(caches["train"]), "--eval-cache", str(caches["eval"])]
    command += ["--methods", *(f"configs/quickstart/{name}.yaml" for name in CACHED)]
    run(root, command)


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
