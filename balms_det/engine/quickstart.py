"""The main job on the embedded dataset: ``make demo``.

Mask AP comes from runs through the detector. Beside them, many more classifiers are trained from
the features that its first stage 1 gives, in seconds each, and compared by box AP.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from balms_det.engine.quickstart_steps import (
    DATASET,
    Step,
    run,
    side_by_side,
    train,
    train_side_by_side,
)
from balms_det.evaluation.pictures import draw_comparison
from balms_det.evaluation.report import write_report
from balms_det.evaluation.table import Row, format_table, read_row
from balms_det.files import write_atomically

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
