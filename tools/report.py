#!/usr/bin/env python3
"""Write one HTML page that shows which classes fail and how. It opens from disk, without a network.

python tools/report.py --gt datasets/icons_lt/icons_lt_val.json --images datasets/icons_lt \\
    --counts datasets/icons_lt/icons_lt_train.json --out output/report.html \\
    --run "Softmax=output/demo/seed0/stage2_softmax/inference/lvis_instances_results.json" \\
    --run "Balanced=output/demo/seed0/stage2_balanced_softmax/inference/lvis_instances_results.json"
"""

import argparse
import sys

from balms_det.report import write_report
from balms_det.utils.command_line import at_least, one_line_errors, positive


def named_file(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not (separator and name and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=RESULTS.json")
    return name, path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gt", required=True, help="LVIS- or COCO-format annotations")
    parser.add_argument(
        "--run",
        required=True,
        action="append",
        type=named_file,
        metavar="NAME=JSON",
        help="results of a run; once for each, the first is what the others are compared with",
    )
    parser.add_argument("--images", help="image root; without it the page has no pictures")
    parser.add_argument("--counts", help="training annotations, or a registered dataset")
    parser.add_argument("--iou-type", choices=["segm", "bbox"], default="segm")
    parser.add_argument(
        "--pictures", type=at_least(0), default=6, help="a class, kind and run (default: 6)"
    )
    parser.add_argument("--max-mb", type=positive, default=12, help="of pictures (default: 12)")
    parser.add_argument("--out", default="report.html", help="HTML file (default: report.html)")
    return parser.parse_args()


@one_line_errors
def main() -> int:
    args = parse_args()
    runs = dict(args.run)
    if len(runs) < len(args.run):
        print("error: two runs have the same name", file=sys.stderr)
        return 2
    write_report(
        args.gt,
        runs,
        args.out,
        images=args.images,
        counts=args.counts,
        iou_type=args.iou_type,
        per_shelf=args.pictures,
        max_gallery_mb=args.max_mb,
    )
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
