#!/usr/bin/env python3
"""Evaluate results of any framework on LVIS- and COCO-format data, by the rules of each.

python tools/evaluate.py val.json results.json                       # box and mask AP
python tools/evaluate.py val.json seed0.json seed1.json seed2.json   # mean and standard deviation
python tools/evaluate.py val.json results.json --fixed --boundary    # LVIS 2021 challenge
python tools/evaluate.py val.json --compare a.json b.json            # who wins where, how surely
python tools/evaluate.py coco_val.json results.json --train-json coco_train.json   # APr, APc, APf
"""

import argparse
import logging
import sys
from pathlib import Path

from balms_det.annotations.class_identity import ClassList
from balms_det.annotations.summary import annotation_summary
from balms_det.data.class_stats import COMMON_MAX, RARE_MAX, ClassStats
from balms_det.evaluation import compare_results
from balms_det.evaluation.compare import comparison_table, write_comparison
from balms_det.evaluation.rules import RULES
from balms_det.evaluation.runs import (
    common_types,
    evaluate_runs,
    runs_table,
    short_labels,
    write_runs,
)
from balms_det.utils.command_line import at_least, one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gt", help="ground truth, a LVIS- or COCO-format json")
    parser.add_argument("results", nargs="*", help="results files (json, .gz, .zip), e.g. seeds")
    parser.add_argument("--iou-type", choices=("bbox", "segm"), nargs="+", help="default: all")
    parser.add_argument("--rule", choices=RULES, default="default", help="default: the data's own")
    parser.add_argument(
        "--fixed", action="store_true", help="--rule fixed: 10,000 a class, no limit an image"
    )
    parser.add_argument("--boundary", action="store_true", help="min of mask and boundary IoU")
    parser.add_argument("--train-json", help="count the frequency groups in this annotation file")
    parser.add_argument(
        "--frequency-limits", type=at_least(0), nargs=2, default=(RARE_MAX, COMMON_MAX), metavar="N"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write json and per-class CSV here")
    parser.add_argument("--lenient", action="store_true", help="leave bad entries out, and say so")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="results to tell apart")
    parser.add_argument("--draws", type=at_least(1), default=1000, help="bootstrap draws")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the draws")
    args = parser.parse_args()
    if bool(args.results) == bool(args.compare):
        parser.error("give results files or --compare A B")
    if args.fixed and args.rule not in ("default", "fixed"):
        parser.error(f"--fixed and --rule {args.rule} are two rules: give one")
    if args.boundary and args.compare:
        parser.error("--compare knows mask and box IoU, not --boundary")
    if args.frequency_limits[0] > args.frequency_limits[1]:
        parser.error("--frequency-limits: the limit of rare comes first")
    args.iou_type = args.iou_type or (["segm"] if args.boundary else None)
    return args


def options(args: argparse.Namespace) -> dict:
    groups = None
    if args.train_json:
        evaluated = annotation_summary(args.gt)
        wanted = ClassList.of(args.gt, evaluated.names, evaluated.category_ids)
        stats = ClassStats.from_file(args.train_json).in_order_of(wanted, args.train_json)
        groups = stats.frequency_groups(*args.frequency_limits)
    rule = "fixed" if args.fixed else args.rule
    return {"rule": rule, "groups": groups, "lenient": args.lenient}


def evaluate(args: argparse.Namespace) -> None:
    for iou_type in args.iou_type or common_types(args.results, lenient=args.lenient):
        own = {**options(args), "boundary": args.boundary}
        results = evaluate_runs(args.gt, args.results, iou_type, **own)
        table = runs_table(short_labels(args.results), results)
        print(f"{iou_type}, rule {results[0].rule}\n\n{table}\n")
        if args.out:
            print("\n".join(map(str, write_runs(args.out, args.results, results))), end="\n\n")


def compare(args: argparse.Namespace) -> None:
    a, b = args.compare
    print(f"A: {a}\nB: {b}\n95 % bootstrap intervals over images, {args.draws} draws\n")
    for iou_type in args.iou_type or common_types([a, b], lenient=args.lenient):
        own = {**options(args), "draws": args.draws, "seed": args.seed}
        comparison = compare_results(args.gt, a, b, iou_type, **own)
        print(f"{iou_type}\n\n{comparison_table(comparison)}\n")
        if args.out:
            path = args.out / f"compare_{iou_type}.csv"
            write_comparison(comparison, path)
            print(f"{path}\n")


@one_line_errors
def main() -> int:
    args = parse_args()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    (compare if args.compare else evaluate)(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
