#!/usr/bin/env python3
"""The main job on the embedded dataset: dataset, stage 1, stage 2, evaluation, table, picture.

python tools/quickstart.py --out output/demo             # what `make demo` runs
python tools/quickstart.py --out output/seeds --seeds 3  # mean and spread
"""

import argparse
from pathlib import Path

from balms_det.engine.quickstart import run_quickstart


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("output/demo"))
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to N-1 (default: 1)")
    args = parser.parse_args()
    run_quickstart(Path(__file__).resolve().parent.parent, args.out, args.seeds)


if __name__ == "__main__":
    main()
