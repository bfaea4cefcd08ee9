"""Memory and time of a long training of a tiny model: both must stay flat.

python -m tests.soak.long_run --iterations 3000

A BALMS run through the real trainer: Meta Sampler, image sampler, event storage, writers,
checkpoints and an evaluation now and then. The processor time of an iteration is compared between
the second third of the run and the last, resident memory by a line through the last two thirds. The
exit status is 1 if one of them grows.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import HookBase

from balms_det.engine import LongTailTrainer, load_cfg
from balms_det.utils.randomness import seed_generators
from tests.soak.jobs import make_data, options

CONFIG = "configs/quickstart/stage2_meta_sampler.yaml"
PERIOD = 500  # iterations between checkpoints, and between evaluations
TINY = {
    "SOLVER.IMS_PER_BATCH": "1",
    "META.IMS_PER_BATCH": "1",
    "INPUT.MIN_SIZE_TRAIN": "(48,)",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": "40",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": "16",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "8",
    "MODEL.DECOUPLED.ENABLED": "False",
    "MODEL.WEIGHTS": "",
}
# What a flat run may grow by: the allocator's noise.
MOST_KIB = 0.5
MOST_TIME = 1.05


class Meter(HookBase):
    """Notes processor time, in seconds, and resident memory, in KiB, after every iteration."""

    def __init__(self):
        self.seconds: list[float] = []
        self.memory: list[float] = []

    def before_step(self) -> None:
        self._start = time.process_time()

    def after_step(self) -> None:
        self.seconds.append(time.process_time() - self._start)
        self.memory.append(resident_kib())


def resident_kib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


@dataclass(frozen=True)
class Growth:
    """What a run of N iterations grew by.

    Attributes:
        time: median processor time of an iteration of the last third over that of the second.
        kib: KiB of memory that an iteration adds, by least squares over the last two thirds.
        start, end: MiB of memory after the first third, and at the end.
        seconds: median processor time of an iteration.
    """

    time: float
    kib: float
    start: float
    end: float
    seconds: float

    @classmethod
    def of(cls, seconds: list[float], memory: list[float]) -> Growth:
        third = len(seconds) // 3
        second, last = np.median(seconds[third:-third]), np.median(seconds[-third:])
        late = np.array(memory[third:-1])  # the last iteration draws the picture of the rates
        slope = np.polyfit(np.arange(len(late)), late, 1)[0]
        start, end = late[0] / 1024, late[-1] / 1024
        return cls(last / second, slope, start, end, float(np.median(seconds)))

    def faults(self) -> list[str]:
        faults = []
        if self.kib > MOST_KIB:
            faults.append(f"memory grows by {self.kib:.2f} KiB an iteration")
        if self.time > MOST_TIME:
            faults.append(f"an iteration of the last third takes {self.time:.2f} of the second's")
        return faults


def train(root: Path, iterations: int, period: int = PERIOD) -> Meter:
    """Train in ``root`` for so many iterations."""
    make_data(root)
    words = options(root / "data", root / "run", test=True)
    words += ["SOLVER.MAX_ITER", str(iterations), "SOLVER.CHECKPOINT_PERIOD", str(period)]
    words += ["TEST.EVAL_PERIOD", str(period)]
    words += [word for pair in TINY.items() for word in pair]
    cfg = load_cfg(CONFIG, words)
    seed_generators(cfg.SEED)
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=False)
    meter = Meter()
    trainer.register_hooks([meter])
    trainer.train()
    return meter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--iterations", type=int, default=3000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="long-run-") as root:
        meter = train(Path(root), args.iterations)
    growth = Growth.of(meter.seconds, meter.memory)
    print(
        f"{args.iterations} iterations: {growth.seconds * 1000:.1f} ms of processor time each, in "
        f"the last third {growth.time:.3f} of the second; memory {growth.start:.0f} MiB after a "
        f"third, {growth.end:.0f} MiB at the end, {growth.kib:+.3f} KiB an iteration"
    )
    if growth.faults():
        sys.exit("; ".join(growth.faults()))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
