#!/usr/bin/env python3
"""Calibrate a trained model: choose how, and how strongly, on data.

python tools/calibrate.py --config-file configs/quickstart/stage1.yaml --out output/calibration \
    MODEL.WEIGHTS output/demo/seed0/stage1/model_final.pth
python tools/calibrate.py ... --calibration NorCal --strengths 0.2,0.4,0.6 --dataset my_val --bake

Leaves in --out: scan.json (AP, APr, APc, APf of boxes for every trial), strength.png (the curves),
statistics.json (what FRACAL and LogitNormalization need), calibrated.yaml (a child config, for
tools/train_net.py --eval-only) and, with --bake, calibrated.pth (plain weights).
"""

import argparse
import sys
from pathlib import Path

from detectron2.utils.logger import setup_logger

from balms_det.engine import load_cfg
from balms_det.evaluation.box_ap import METRICS
from balms_det.modeling.calibration import CALIBRATION_REGISTRY
from balms_det.utils.command_line import at_least, one_line_errors
from balms_det.workflows.calibrate import SearchOptions, calibrate


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="config of the trained model")
    parser.add_argument("--out", required=True, metavar="FOLDER")
    known = ", ".join(sorted(name for name, _ in CALIBRATION_REGISTRY))
    parser.add_argument("--calibration", metavar="A,B", help=f"default: all of {known}")
    parser.add_argument("--strengths", metavar="0.2,0.4", help="default: each has its own")
    parser.add_argument("--dataset", default="", help="default: the first of DATASETS.TRAIN")
    parser.add_argument("--cache", default="", metavar="FOLDER", help="of cache_features.py, eval")
    parser.add_argument("--images", type=at_least(0), default=500, help="0 for all (default: 500)")
    parser.add_argument("--metric", choices=METRICS, default="AP", help="what is maximised")
    parser.add_argument("--bake", action="store_true", help="write a checkpoint as well")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser.parse_args()


def strengths(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--strengths takes numbers, as in 0.2,0.4, got {text!r}") from error


@one_line_errors
def main() -> int:
    args = parse_args()
    setup_logger(name="balms_det")
    calibrate(
        load_cfg(args.config_file, args.opts),
        Path(args.out),
        SearchOptions(
            names=args.calibration.split(",") if args.calibration else (),
            strengths=strengths(args.strengths) if args.strengths else (),
            dataset=args.dataset,
            num_images=args.images,
            metric=args.metric,
            cache=args.cache,
        ),
        config_file=args.config_file,
        opts=args.opts,
        bake=args.bake,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
