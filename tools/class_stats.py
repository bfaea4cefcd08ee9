#!/usr/bin/env python3
"""Print and draw how long the tail of a dataset is.

python tools/class_stats.py lvis_v1_train --plot long_tail.png
python tools/class_stats.py path/to/annotations.json --per-class
python tools/class_stats.py my_train --config-file my.yaml     # a dataset of DATASETS.FILES
"""

import argparse
import os
import sys

from balms_det.data.class_stats import stats_of
from balms_det.data.stats_report import absent_classes, class_table, group_table, plot_long_tail
from balms_det.utils.command_line import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="a registered dataset, or a LVIS- or COCO-format json")
    parser.add_argument("--config-file", help="a config whose DATASETS.FILES to register")
    parser.add_argument("--sampler-threshold", type=float, default=0.001, metavar="t")
    parser.add_argument("--per-class", action="store_true", help="one line a class as well")
    parser.add_argument("--plot", metavar="PNG", help="draw the long tail into this file")
    return parser.parse_args()


@one_line_errors
def main() -> int:
    args = parse_args()
    if args.config_file:
        from detectron2.config import get_cfg

        from balms_det import add_balms_config
        from balms_det.data.datasets import register_files
        from balms_det.engine.config import merge_config_file

        cfg = get_cfg()
        add_balms_config(cfg)
        merge_config_file(cfg, args.config_file)
        register_files(cfg.DATASETS.FILES)
    stats = stats_of(args.dataset)
    table = group_table(stats, args.sampler_threshold)
    print(f"{args.dataset}: {stats.num_images:,} images, {stats.num_classes:,} classes\n\n{table}")
    if len(stats.absent):
        print(f"\nabsent: {absent_classes(stats)}")
    if args.per_class:
        print(f"\n{class_table(stats, args.sampler_threshold)}")
    if args.plot:
        plot_long_tail(stats, args.plot, os.path.basename(args.dataset))
        print(f"\n{args.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
