#!/usr/bin/env python3
"""Train or evaluate a long-tail detector.

python tools/train_net.py --config-file configs/quickstart/stage1.yaml
python tools/train_net.py --config-file ... --num-gpus 8 [--resume] [KEY VALUE ...]
python tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS path/to/model.pth
torchrun --nproc-per-node 8 tools/train_net.py --config-file ...
"""

import sys

from detectron2.engine import default_argument_parser

from balms_det.engine import LongTailTrainer, launch_main, load_trained_weights, setup_cfg
from balms_det.utils.command_line import one_line_errors


def main(args):
    cfg = setup_cfg(args)
    if args.eval_only:
        model = LongTailTrainer.build_model(cfg)
        load_trained_weights(cfg, model)
        return LongTailTrainer.test(cfg, model)
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


@one_line_errors
def run() -> None:
    launch_main(main, default_argument_parser(epilog=__doc__).parse_args())


if __name__ == "__main__":
    sys.exit(run())
