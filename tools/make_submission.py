#!/usr/bin/env python3
"""Write predictions as a file that an evaluation server accepts, or say what is wrong with one.

python tools/make_submission.py test.json predictions.json --out submission.zip
python tools/make_submission.py test.json submission.zip         # check it
"""

import argparse
import sys
from pathlib import Path

from balms_det.evaluation.submission import check_submission, write_submission
from balms_det.utils.command_line import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gt", help="the dataset's json; its annotations are not needed")
    parser.add_argument("results", help="predictions (json, .gz or .zip)")
    parser.add_argument("--out", type=Path, help="file to write, .json or .zip; without: check")
    parser.add_argument(
        "--fixed", action="store_true", help="LVIS 2021: 10,000 a class instead of 300 an image"
    )
    parser.add_argument("--lenient", action="store_true", help="leave bad entries out")
    return parser.parse_args()


def check(args: argparse.Namespace, rule: str) -> int:
    problems = check_submission(args.gt, args.results, rule)
    for problem in problems:
        print(problem.describe(args.results))
    print(f"{args.results}: {f'{len(problems)} kinds of faults' if problems else 'no fault found'}")
    return 1 if problems else 0


def write(args: argparse.Namespace, rule: str) -> int:
    written = write_submission(args.gt, args.results, args.out, rule, lenient=args.lenient)
    for problem in written.left_out:
        print(problem.describe(args.results, verdict=True))
    print(
        f"{written.path}: {written.entries:,} detections on {written.images:,} images; "
        f"{written.empty_images:,} images have none"
    )
    return 0


@one_line_errors
def main() -> int:
    args = parse_args()
    rule = "fixed" if args.fixed else "default"
    return write(args, rule) if args.out else check(args, rule)


if __name__ == "__main__":
    sys.exit(main())
