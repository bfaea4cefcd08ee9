"""What looking for NaN and infinity costs: a training step with the guard against one without it.

    python benchmarks/step_guard.py [--rounds 7] [--size 256] [--images 2] [--threads 1]
                                    [--device cpu] [--amp]

A Mask R-CNN R50-FPN with the 1,203 classes of LVIS (random weights) that trains in all its parts,
on generated images without masks:

    plain   a step as ``SimpleTrainer`` makes it
    stop    the same with ``SOLVER.NON_FINITE.ACTION: "stop"``
    skip    the same with "skip", which also keeps the running state

With ``--amp`` the steps are those of ``AMPTrainer``, on CUDA. Time is processor time on a CPU and
wall-clock time on CUDA. The candidates take turns; a ratio is the median over rounds of
(time / time of plain in the same round).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from pathlib import Path

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from meta_step import make_batch
from timing import seconds

from balms_det.engine import load_cfg
from balms_det.engine.non_finite import NonFiniteGuard

CONFIG = Path(__file__).parents[1] / "configs/LVISv1/mask_rcnn_R_50_FPN_softmax_rfs.yaml"
OPTIONS = ["MODEL.WEIGHTS", "", "MODEL.MASK_ON", "False"]


def candidates(args: argparse.Namespace) -> dict[str, SimpleTrainer]:
    """Trainers of one model, whose learning rate of 0 leaves it as it is."""
    cfg = load_cfg(str(CONFIG), [*OPTIONS, "MODEL.DEVICE", args.device])
    model = build_model(cfg).train()
    batch = make_batch(args.images, args.size, cfg.MODEL.ROI_HEADS.NUM_CLASSES, seed=0)
    kind, found = AMPTrainer if args.amp else SimpleTrainer, {}
    for name in ("plain", "stop", "skip"):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        found[name] = trainer = kind(model, itertools.repeat(batch), optimizer)
        if name != "plain":
            guard = NonFiniteGuard("output", skip=name == "skip")
            guard.trainer = trainer
            guard.before_train()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=256, help="pixels of an image's side")
    parser.add_argument("--images", type=int, default=2, help="images of a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="float16, on CUDA")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trainers = candidates(args)
    measured: dict[str, list[float]] = {name: [] for name in trainers}
    with EventStorage():
        for turn in range(args.rounds + 1):
            for name, trainer in trainers.items():
                torch.manual_seed(turn)
                start = seconds(args.device)
                trainer.run_step()
                taken = seconds(args.device) - start
                if turn:
                    measured[name].append(taken)
    print(f"{args.images} images of {args.size} pixels, {args.device}, torch {torch.__version__}")
    for name, times in measured.items():
        ratio = statistics.median(t / o for t, o in zip(times, measured["plain"]))
        print(f"{name:6} {statistics.median(times):8.3f} s {ratio:8.3f} / plain")


if __name__ == "__main__":
    main()
