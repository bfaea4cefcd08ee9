"""Train as tools/train_net.py does, and kill this process after an iteration.

    python kill_run.py ITERATION CONFIG [KEY VALUE ...]

SIGKILL leaves no clean-up to anybody: what remains is the last checkpoint.
"""

import os
import signal
import sys

from detectron2.engine import HookBase

from balms_det.data.randomness import seed_generators
from balms_det.engine import LongTailTrainer, load_cfg


class Kill(HookBase):
    def __init__(self, after: int):
        self.after = after

    def after_step(self):
        if self.trainer.iter == self.after:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    cfg = load_cfg(sys.argv[2], sys.argv[3:])
    seed_generators(cfg.SEED)  # for the initial weights
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.register_hooks([Kill(int(sys.argv[1]))])
    trainer.train()
