#!/usr/bin/env python3
"""Fast inference against Detectron2's: time as a ratio in one run, and peak memory.

    python benchmarks/fast_inference.py [--rounds 3] [--device cpu] [--threads 1] [--no-memory]

Predictions for an image of 800 x 1333 with 20 objects and 1,000 proposals around them, 1,203
classes with a box each, score threshold 1e-4, NMS at 0.5, the best 300 detections:

    flat      scores of a classifier that has learned nothing: logits of deviation 0.3
    medium    logits of deviation 1
    peaked    as medium, and each object has three classes whose logits are 8 higher
    tied      as flat, rounded to five decimals: equal scores, for which all candidates are needed

and smaller ones of the same making: down to COCO's 80 classes at a threshold of 0.05, and to no
proposal at all. Both functions run once a round on the same predictions, in an order that is drawn
anew, and the detections are checked to be equal. Times are medians over rounds, in processor time
on a CPU and wall-clock time on CUDA; the ratio is the median of the rounds' ratios. Peak memory is
what a call adds at its highest point to what is held before it, each in a process of its own. Exits
with 1 if a limit is missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import re
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference as detectron2s
from timing import seconds
from torch import Tensor

from balms_det.modeling import fast_rcnn_inference as ours

SHAPE = (800, 1333)
OBJECTS = 20
MEBIBYTE = 2**20
FUNCTIONS = {"Detectron2": detectron2s, "fast": ours}


class Case(NamedTuple):
    kind: str
    proposals: int
    classes: int
    threshold: float
    topk: int
    limit: float  # the ratio that has to be reached on a CPU; on CUDA it is 1

    def arguments(self, device: str) -> tuple:
        boxes, scores = predictions(self.kind, self.proposals, self.classes)
        return [boxes.to(device)], [scores.to(device)], [SHAPE], self.threshold, 0.5, self.topk


LARGE = [
    Case("flat", 1000, 1203, 1e-4, 300, 40.0),
    Case("medium", 1000, 1203, 1e-4, 300, 40.0),
    Case("peaked", 1000, 1203, 1e-4, 300, 10.0),
]
SMALL = [
    Case(kind, proposals, classes, threshold, topk, 1.0)
    for kind in ("medium", "peaked")
    for threshold, topk in ((0.05, 100), (1e-4, 300))
    for proposals, classes in ((0, 80), (1, 80), (20, 5), (100, 20), (1000, 5), (1000, 80))
]
EVERYTHING = [
    Case("tied", 1000, 1203, 1e-4, 300, 1.0),
    Case("flat", 1000, 300, 1e-4, -1, 1.0),
    Case("peaked", 1000, 300, 1e-4, -1, 1.0),
]


def predictions(kind: str, proposals: int, classes: int) -> tuple[Tensor, Tensor]:
    """Boxes (R, 4K) and scores (R, K + 1)."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    corner = torch.rand(OBJECTS, 2, generator=generator) * 600
    size = 30 + torch.rand(OBJECTS, 2, generator=generator) * 300
    objects = torch.cat([corner, corner + size], dim=1)
    of_proposal = torch.randint(0, OBJECTS, (proposals,), generator=generator)
    rough = objects[of_proposal] + 12 * normal(proposals, 4)
    boxes = rough[:, None] + 4 * normal(proposals, classes, 4)
    boxes[..., 2:] = boxes[..., 2:].maximum(boxes[..., :2] + 4)
    logits = normal(proposals, classes + 1) * (1.0 if kind in ("medium", "peaked") else 0.3)
    if kind == "peaked":
        likely = torch.randint(0, classes, (OBJECTS, 3), generator=generator)
        logits.scatter_add_(1, likely[of_proposal], 8 + normal(proposals, 3))
    scores = logits.softmax(dim=1)
    return boxes.flatten(1), scores.mul(1e5).round().div(1e5) if kind == "tied" else scores


def measure(case: Case, rounds: int, device: str) -> dict[str, float]:
    """Median seconds of both functions, and their ratio."""
    arguments = case.arguments(device)
    check_equal(*(function(*arguments) for function in FUNCTIONS.values()))
    times = {name: [] for name in FUNCTIONS}
    for _ in range(rounds):
        for name, function in random.sample(list(FUNCTIONS.items()), len(FUNCTIONS)):
            start = seconds(device)
            function(*arguments)
            times[name].append(seconds(device) - start)
    ratios = [slow / fast for slow, fast in zip(*times.values())]
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {**medians, "ratio": statistics.median(ratios)}


def check_equal(theirs: tuple, fast: tuple) -> None:
    """Stop when detections or their proposals differ in anything."""
    for (one,), (other,) in zip(theirs, fast):
        for tensor, same in zip(_tensors(one), _tensors(other)):
            if not torch.equal(tensor, same):
                sys.exit("the detections differ from Detectron2's")


def _tensors(part) -> list[Tensor]:
    if isinstance(part, Tensor):
        return [part]
    return [part.pred_boxes.tensor, part.scores, part.pred_classes]


def peak_memory(case: Case, name: str, device: str) -> float:
    """MiB that a call adds at its highest point."""
    arguments = case.arguments(device)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        FUNCTIONS[name](*arguments)
        return (torch.cuda.max_memory_allocated() - before) / MEBIBYTE
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = _resident("VmRSS")
    FUNCTIONS[name](*arguments)
    return _resident("VmHWM") - before


def _resident(key: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) / 1024


def in_own_process(*arguments) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_memory, arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="for the large cases")
    parser.add_argument("--small-rounds", type=int, default=101)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.device}, {args.threads} thread(s), torch {torch.__version__}")
    print(f"{'scores':8}{'R':>6}{'K':>6}{'threshold':>11}{'topk':>6}", end="")
    print(f"{'Detectron2 ms':>15}{'fast ms':>9}{'ratio':>8}{'limit':>7}{'MiB':>14}")
    missed = 0
    for case in LARGE + EVERYTHING + SMALL:
        few = case.proposals * case.classes > 100_000
        found = measure(case, args.rounds if few else args.small_rounds, args.device)
        memory = ""
        if case in LARGE and not args.no_memory:
            memory = [in_own_process(case, name, args.device) for name in FUNCTIONS]
            missed += memory[1] >= memory[0]
            memory = " -> ".join(f"{mebibytes:.0f}" for mebibytes in memory)
        limit = case.limit if args.device == "cpu" else 1.0
        missed += found["ratio"] < limit
        print(
            f"{case.kind:8}{case.proposals:6}{case.classes:6}{case.threshold:11g}{case.topk:6}"
            f"{1e3 * found['Detectron2']:15.2f}{1e3 * found['fast']:9.2f}{found['ratio']:8.2f}"
            f"{limit:7g}{memory:>14}",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
