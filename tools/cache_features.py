#!/usr/bin/env python3
"""Run a trained detector once, and keep what its box classifier reads.

python tools/cache_features.py --config-file configs/quickstart/stage1.yaml \
    --out output/cache_train MODEL.WEIGHTS output/demo/seed0/stage1/model_final.pth
python tools/cache_features.py ... --views 4 --background 128    # augmented passes
python tools/cache_features.py ... --purpose eval --out output/cache_val
torchrun --nproc-per-node 8 tools/cache_features.py ...

A call that was stopped goes on when it is made again. docs/feature_cache.md has the format.
"""

import argparse
import sys

from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from balms_det.engine import launch_main, load_cfg
from balms_det.features import CacheOptions, cache_features
from balms_det.features.manifest import DTYPES, EVAL, TRAIN
from balms_det.utils.command_line import at_least, one_line_errors


def parse_args() -> argparse.Namespace:
    parser = default_argument_parser(epilog=__doc__)
    defaults = CacheOptions()
    parser.add_argument("--out", required=True, metavar="FOLDER", help="of the cache")
    parser.add_argument("--purpose", choices=(TRAIN, EVAL), default=TRAIN)
    parser.add_argument("--dataset", default="", help="default: that of the config")
    parser.add_argument(
        "--images", type=at_least(0), default=0, help="the first so many (default: all)"
    )
    parser.add_argument(
        "--views",
        type=at_least(0),
        default=0,
        help="augmented passes (default: one pass as in testing)",
    )
    parser.add_argument(
        "--background",
        type=int,
        default=defaults.background,
        help=f"background RoIs an image, -1 for all (default: {defaults.background})",
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES), default=defaults.dtype)
    parser.add_argument(
        "--shard-images", type=at_least(0), default=0, help="default: 500, or 100 for eval"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    setup_logger(name="balms_det", distributed_rank=comm.get_rank())
    cfg = load_cfg(args.config_file, args.opts)
    options = CacheOptions(
        purpose=args.purpose,
        dataset=args.dataset,
        num_images=args.images,
        views=args.views,
        background=args.background,
        dtype=args.dtype,
        shard_images=args.shard_images,
    )
    cache_features(cfg, args.out, options)


@one_line_errors
def run() -> None:
    launch_main(main, parse_args())


if __name__ == "__main__":
    sys.exit(run())
