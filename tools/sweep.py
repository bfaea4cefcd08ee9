#!/usr/bin/env python3
"""Compare losses, samplers, meta learners and classifier methods, all from cached features.

python tools/sweep.py --cache output/cache_train --eval-cache output/cache_val --out output/sweep
python tools/sweep.py --cache a/train b/train --eval-cache a/val b/val --seeds 2 --out output/sweep
python tools/sweep.py ... --methods configs/quickstart/losses/*.yaml --iterations 800 --metric APr

A method is a config of stage 2; the default are all of configs/quickstart: every registered loss,
and what is not about the loss. Leaves in --out: table.md, table.json (mean ± standard deviation of
box AP, seconds of training), methods.png, the failures, and winner/config.yaml with its model. A
call that is repeated runs only what is missing or has other inputs.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from balms_det.classifier import Choices
from balms_det.classifier.run import pair_with_seeds
from balms_det.classifier.sweep import (
    Job,
    add_missing_losses,
    find_methods,
    make_rows,
    plan_jobs,
    run_jobs,
    write_winner,
)
from balms_det.evaluation.runs import spread
from balms_det.evaluation.tables import METRICS, draw_methods, format_table
from balms_det.features import FeatureCache
from balms_det.utils.command_line import at_least, one_line_errors
from balms_det.utils.files import write_atomically

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "quickstart"
BASE = CONFIGS / "stage2_softmax.yaml"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--cache",
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="for training, one or one a seed",
    )
    add("--eval-cache", nargs="+", required=True, metavar="FOLDER", help="likewise")
    add("--out", type=Path, required=True, metavar="FOLDER")
    add("--methods", nargs="+", type=Path, metavar="YAML", help="configs of stage 2")
    add("--seeds", type=at_least(1), default=3, help="seeds 0 to N-1 (default: 3)")
    add("--iterations", type=at_least(0), default=0, help="default: those of each config")
    add("--batch", type=at_least(0), default=0, help="RoIs (default: as in the detector)")
    add("--metric", choices=METRICS, default="AP", help="of which the winner has most")
    add("--processes", type=at_least(1), default=os.cpu_count() or 1, help="that run at once")
    add("opts", nargs="*", metavar="KEY VALUE", help="options of the configs, after --")
    return parser.parse_args()


@one_line_errors
def main() -> int:
    args, started = parse_args(), time.perf_counter()
    choices = Choices(iterations=args.iterations, batch=args.batch, opts=args.opts)
    folders = pair_with_seeds(args.cache, args.seeds, "cache")
    evaluate = pair_with_seeds(args.eval_cache, args.seeds, "cache for evaluation")
    opened = {folder: FeatureCache.open(folder) for folder in {*folders, *evaluate}}
    caches = [opened[folder] for folder in folders]
    for cache, folder in zip(caches, evaluate):
        cache.check_purpose("train")
        opened[folder].check_purpose("eval")
        cache.check_same_model(opened[folder])
    methods = find_methods(args.methods or default_methods(), caches[0], choices, args.out)
    if not args.methods:
        add_missing_losses(methods, BASE, caches[0], choices, args.out)
    jobs = plan_jobs(methods, caches, evaluate, args.out)
    print(f"{len(methods)} methods x {args.seeds} seeds", flush=True)
    results, failures = run_jobs(jobs, args.processes, tell)
    rows = make_rows(jobs, results, args.metric)
    spent = sum(result["processor_seconds"] for result in results.values())
    report(args, rows, failures)
    print(f"{time.perf_counter() - started:.0f} s, of which {spent:.0f} s on the processor in jobs")
    print(f"Winner: {write_winner(jobs, rows, args.out, args.metric)}")
    return 1 if failures else 0


def default_methods() -> list[Path]:
    """Every config of stage 2 on icons_lt."""
    names = ("stage2_*.yaml", "losses/*.yaml", "classifier/*.yaml")
    return [path for name in names for path in sorted(CONFIGS.glob(name))]


def tell(job: Job, result: dict | None) -> None:
    """Say how a job ended."""
    shown = "failed"
    if result is not None:
        shown = "  ".join(f"{metric} {spread([result[metric]], 2)}" for metric in METRICS)
    print(f"{job.label}, seed {job.seed}: {shown}", flush=True)


def report(args: argparse.Namespace, rows, failures) -> None:
    failed = "".join(f"\n- {f.label}, seed {f.seed}: {f.error}" for f in failures)
    text = format_table(rows) + (f"\n\nFailed:\n{failed}" if failures else "")
    write_atomically(args.out / "table.md", text + "\n")
    content = {"rows": [row.as_dict() for row in rows], "failures": [vars(f) for f in failures]}
    write_atomically(args.out / "table.json", json.dumps(content, indent=1))
    title = "Classifiers trained from cached features"
    title += f", mean and deviation of {args.seeds} seeds" if args.seeds > 1 else ""
    draw_methods(rows, args.out / "methods.png", title=title)
    print(f"\nBox AP\n\n{text}\n\n{args.out / 'methods.png'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
