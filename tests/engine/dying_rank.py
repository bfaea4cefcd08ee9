"""Start a training of which rank 1 dies in its second iteration, by exception or SIGKILL.

    python dying_rank.py HOW [arguments of tools/train_net.py]

Rank 0 then waits for it in the middle of a step.
"""

import os
import signal
import sys

from detectron2.engine import HookBase, default_argument_parser
from detectron2.utils import comm

from balms_det.engine import LongTailTrainer, launch_main, setup_cfg


class Die(HookBase):
    def __init__(self, how: str):
        self.how = how

    def before_step(self):
        if self.trainer.iter == 1 and comm.get_rank() == 1:
            print("rank 1 dies", flush=True)
            if self.how == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("rank 1 ran into an error of its own")


def main(args):
    trainer = LongTailTrainer(setup_cfg(args))
    trainer.register_hooks([Die(args.how)])
    trainer.train()


if __name__ == "__main__":
    how = sys.argv.pop(1)
    args = default_argument_parser().parse_args()
    args.how = how
    launch_main(main, args)
