#!/usr/bin/env python3
"""Train the classifier of a trained detector from cached features, in seconds.

python tools/train_classifier.py --cache output/cache_train --eval-cache output/cache_val \
    --config-file configs/quickstart/stage2_softmax.yaml --loss BalancedSoftmaxLoss --out output/bs
python tools/train_classifier.py ... --loss SeesawLoss --args P 0.8 --lr 0.2 --seeds 3
python tools/train_classifier.py ... --loss BalancedSigmoidLoss --meta MetaReweighter
python tools/train_classifier.py ... --method LWS      # or CRT, TauNorm
python tools/train_net.py --eval-only --config-file output/bs/seed0/config.yaml    # masks as well

The caches are those of tools/cache_features.py. Of each seed --out gets an ordinary Detectron2
checkpoint and its config. Options of a config are given at the end, as KEY VALUE pairs.
"""

import argparse
import sys
from pathlib import Path

import torch
from detectron2.utils.logger import setup_logger

from balms_det.classifier import METHOD_REGISTRY, ROI_SAMPLER_REGISTRY, Choices
from balms_det.classifier.recipe import make_recipe
from balms_det.classifier.run import pair_with_seeds, train_seeds
from balms_det.evaluation.tables import format_table
from balms_det.features import FeatureCache
from balms_det.utils.command_line import at_least, one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    methods, samplers = (
        ", ".join(sorted(name for name, _ in registry))
        for registry in (METHOD_REGISTRY, ROI_SAMPLER_REGISTRY)
    )
    add(
        "--cache",
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="for training, one or one a seed",
    )
    add("--eval-cache", nargs="+", default=[], metavar="FOLDER", help="likewise, for box AP")
    add("--out", type=Path, required=True, metavar="FOLDER")
    add("--config-file", default="", help="of stage 2 (default: the detector's own)")
    add("--loss", default="", help="default: that of the config")
    add("--args", nargs="+", default=[], metavar="K V", help="arguments of the loss")
    add("--method", default="", help=f"{methods} (default: Plain)")
    add("--sampler", default="", help=f"{samplers}, or one of DATALOADER.SAMPLER_TRAIN")
    add("--meta", default="", help="MetaReweighter or MetaSampler (default: none)")
    add("--seeds", type=at_least(1), default=1, help="seeds 0 to N-1 (default: 1)")
    add("--iterations", type=at_least(0), default=0, help="default: SOLVER.MAX_ITER")
    add("--lr", type=float, default=0.0, help="default: SOLVER.BASE_LR")
    add("--batch", type=at_least(0), default=0, help="RoIs (default: as in the detector)")
    add("--threads", type=at_least(1), default=torch.get_num_threads())
    add("opts", nargs="*", metavar="KEY VALUE", help="options of the config, after --")
    return parser.parse_args()


@one_line_errors
def main() -> int:
    args = parse_args()
    setup_logger(name="balms_det")
    torch.set_num_threads(args.threads)
    chosen = {name: getattr(args, name) for name in ("loss", "method", "sampler", "meta")}
    numbers = {name: getattr(args, name) for name in ("iterations", "lr", "batch")}
    choices = Choices(loss_args=args.args, opts=args.opts, **chosen, **numbers)
    folders = pair_with_seeds(args.cache, args.seeds, "cache")
    evaluate = pair_with_seeds(args.eval_cache, args.seeds, "cache for evaluation")
    opened = {folder: FeatureCache.open(folder) for folder in set(folders)}
    caches = [opened[folder] for folder in folders]
    recipe = make_recipe(caches[0], args.config_file, choices, args.out)
    label = args.loss or Path(recipe.config_file).stem
    row = train_seeds(recipe, caches, evaluate, args.out, label)
    print(format_table([row]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
