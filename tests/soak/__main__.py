"""Kill runs at random moments, resume them, and compare with runs that nobody interrupted.

python -m tests.soak --kills 20                      # every job
python -m tests.soak --jobs stage1,icons --kills 2

Weights, optimiser, scheduler, meta learner, loss state, sampler position and random generators must
be identical to the last bit, and no file half written under its final name. The exit status is 1
if anything differs.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from tests.soak.chains import Soak
from tests.soak.jobs import JOBS
from tests.soak.kills import KINDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--jobs", default=",".join(JOBS), help="names, with commas between them")
    parser.add_argument("--kills", type=int, default=20, help="of each job, at least")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", help="folder to keep everything in, which must be new")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.out:
        Path(args.out).mkdir(parents=True)
        kill_all(Path(args.out).absolute(), args)
    else:
        with tempfile.TemporaryDirectory(prefix="soak-") as root:
            kill_all(Path(root), args)


def kill_all(root: Path, args: argparse.Namespace) -> None:
    soak = Soak(root)
    for name in args.jobs.split(","):
        start = time.perf_counter()
        done = soak.kill(name, args.kills, args.seed)
        kinds = ", ".join(f"{done[kind]} {kind}" for kind in KINDS)
        print(
            f"{name}: {done['kills']} kills ({kinds}), {done['cut off']} checkpoints cut off, "
            f"in {done['runs']} runs, {time.perf_counter() - start:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
