#!/usr/bin/env python3
"""The main job on the embedded dataset: dataset, stage 1, stage 2, evaluation, table, picture.

python tools/quickstart.py --out output/demo             # what `make demo` runs
python tools/quickstart.py --out output/seeds --seeds 5 --ablation  # mean, spread
"""

import argparse
import sys
from pathlib import Path

from balms_det.utils.command_line import at_least, one_line_errors
from balms_det.workflows.quickstart import run_quickstart


@one_line_errors
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("output/demo"))
    parser.add_argument("--seeds", type=at_least(1), default=1, help="seeds 0 to N-1 (default: 1)")
    parser.add_argument("--ablation", action="store_true", help="also the rows that explain them")
    args = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    try:
        run_quickstart(root, args.out, args.seeds, args.ablation)
    except RuntimeError as error:  # a step failed, and has said why
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
