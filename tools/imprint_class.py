#!/usr/bin/env python3
"""Add a class to a trained model from a few exemplar boxes, without training.

python tools/imprint_class.py --config-file output/run/config.yaml --exemplars new.json \
    --images images --category zebra --out output/zebra MODEL.WEIGHTS output/run/model_final.pth

The model needs a cosine classifier, such as NormalizedSoftmaxLoss trains. The new class has the
last label; run the tool again on its output to add another.
"""

import argparse
import sys

from balms_det.engine import LongTailTrainer, load_cfg
from balms_det.engine.checkpoint import load_trained_weights
from balms_det.utils.command_line import at_least, one_line_errors
from balms_det.workflows.imprint import imprint, read_exemplars


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="config of the trained model")
    parser.add_argument("--exemplars", required=True, help="LVIS- or COCO-format json with boxes")
    parser.add_argument("--images", required=True, help="folder of the exemplars' images")
    parser.add_argument("--category", required=True, help="name of the new class in that json")
    parser.add_argument("--max-exemplars", type=at_least(1), metavar="N", help="most boxes to take")
    parser.add_argument("--out", required=True, help="folder to write the model and config to")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config options as KEY VALUE pairs")
    return parser.parse_args()


@one_line_errors
def main() -> int:
    args = parse_args()
    cfg = load_cfg(args.config_file, args.opts)
    exemplars = read_exemplars(cfg, args.exemplars, args.images, args.category, args.max_exemplars)
    model = LongTailTrainer.build_model(cfg)
    load_trained_weights(cfg, model)
    weights, config = imprint(cfg, model, exemplars, args.out, args.category)
    boxes = sum(len(record["instances"]) for record in exemplars)
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    print(f"{args.category}: label {classes}, from {boxes} boxes\n{weights}\n{config}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
