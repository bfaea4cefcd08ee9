"""What a BALMS step costs: time and memory against a plain stage 2 step and the authors' scheme.

    python benchmarks/meta_step.py [--rounds 7] [--size 512] [--images 2] [--threads 1]
                                   [--device cpu] [--no-memory]

A frozen Mask R-CNN R50-FPN with the 1,203 classes of LVIS (random weights), generated images, the
same training and meta batch for every candidate:

    plain       a stage 2 step as ``SimpleTrainer`` makes it
    forwards    the two forward passes alone that meta learning cannot do without
    balms       ``MetaStepTrainer`` with the Meta Reweighter
    sampler     ``MetaStepTrainer`` with the Meta Sampler
    authors     the scheme of the authors' code: three forward passes, the inner step under
                autograd and the meta gradient through it (second order)

Time is processor time on a CPU and wall-clock time on CUDA. The candidates take turns; a ratio is
the median over rounds of (time / time of the other in the same round). Memory is the peak of a
process of its own that makes three steps of one candidate: resident, or on CUDA that of the GPU.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from timing import seconds
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from balms_det.engine import load_cfg
from balms_det.engine.meta_trainer import MetaStepTrainer, build_meta_step
from balms_det.engine.trainer import freeze_all_but
from balms_det.meta import MetaReweighter
from balms_det.modeling.box_predictor import box_predictors
from balms_det.modeling.recording import record_silently, recorded

CONFIG = Path(__file__).parents[1] / "configs/LVISv1/mask_rcnn_R_50_FPN_balms_stage2.yaml"
OPTIONS = ["MODEL.WEIGHTS", "", "DATASETS.TEST", "()"]


def make_batch(images: int, size: int, num_classes: int, seed: int) -> list[dict]:
    """Images of noise with eight boxes each."""
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for _ in range(images):
        corner = torch.rand(8, 2, generator=generator) * size * 0.6
        extent = torch.rand(8, 2, generator=generator) * size * 0.3 + size * 0.08
        instances = Instances((size, size))
        instances.gt_boxes = Boxes(torch.cat([corner, corner + extent], dim=1))
        instances.gt_classes = torch.randint(0, num_classes, (8,), generator=generator)
        image = torch.randint(0, 256, (3, size, size), generator=generator).float()
        batch.append({"image": image, "instances": instances, "height": size, "width": size})
    return batch


class AuthorsScheme:
    """Virtual step under autograd, meta loss through it, Adam, and the training batch once more."""

    def __init__(self, model, optimizer, batches):
        self.model, self.optimizer = model, optimizer
        self.train, self.meta = batches
        self.predictors = box_predictors(model)
        (predictor,) = self.predictors
        self.learner = MetaReweighter(predictor.num_classes).to(model.device)
        self.adam = torch.optim.Adam(self.learner.parameters(), lr=1e-3)

    def loss(self, logits: Tensor, gt_classes: Tensor, weights: Tensor) -> Tensor:
        # The sigmoid form of Balanced Softmax out of operations that can be differentiated twice.
        (predictor,) = self.predictors
        foreground = (gt_classes < predictor.num_classes).to(logits.dtype)
        shifted = logits + foreground.unsqueeze(1) * predictor.cls_loss.offsets
        target = F.one_hot(gt_classes, predictor.num_classes + 1)[:, :-1].to(logits.dtype)
        per_roi = F.binary_cross_entropy_with_logits(shifted, target, reduction="none").sum(dim=1)
        return (per_roi * weights).sum() / len(logits)

    def fast_weights(self, loss: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        (group,) = self.optimizer.param_groups[:1]
        fast = {}
        for (name, parameter), gradient in zip(parameters.items(), gradients):
            buffer = self.optimizer.state[parameter].get("momentum_buffer")
            step = gradient + group["weight_decay"] * parameter
            step = step if buffer is None else group["momentum"] * buffer + step
            fast[name] = parameter - group["lr"] * step
        return fast

    def run_step(self) -> None:
        (predictor,) = self.predictors
        parameters = dict(predictor.cls_score.named_parameters())
        with recorded(self.predictors) as train:
            self.model(self.train)
        weights = self.learner(train[0].gt_classes)
        inner = self.loss(train[0].logits, train[0].gt_classes, weights)
        fast = self.fast_weights(inner, parameters)
        (meta,) = record_silently(self.model, self.predictors, self.meta)
        logits = functional_call(predictor.cls_score, fast, meta.features)
        meta_loss = predictor.cls_loss.plain_loss(logits, meta.gt_classes)
        self.adam.zero_grad()
        meta_loss.backward()
        self.adam.step()
        with recorded(self.predictors) as again:
            self.model(self.train)
        weights = self.learner(again[0].gt_classes).detach()
        self.optimizer.zero_grad()
        self.loss(again[0].logits, again[0].gt_classes, weights).backward()
        self.optimizer.step()


def candidates(args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """A call of one step for every candidate; all share one detector."""
    cfg = load_cfg(str(CONFIG), [*OPTIONS, "MODEL.DEVICE", args.device])
    torch.manual_seed(0)
    model = freeze_all_but(build_model(cfg), ["cls_score"]).train()
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    train, meta = (make_batch(args.images, args.size, num_classes, seed) for seed in (1, 2))
    predictors = box_predictors(model)

    def sgd() -> torch.optim.SGD:
        return torch.optim.SGD(
            predictors[0].cls_score.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4
        )

    def balms(name: str) -> MetaStepTrainer:
        node = cfg.clone()
        node.defrost()
        node.META.NAME = name
        repeat = itertools.repeat
        return MetaStepTrainer(model, repeat(train), sgd(), repeat(meta), build_meta_step(node))

    def forwards() -> None:
        record_silently(model, predictors, meta)
        with recorded(predictors):
            model(train)

    trainers = {
        "plain": SimpleTrainer(model, itertools.repeat(train), sgd()),
        "balms": balms("MetaReweighter"),
        "sampler": balms("MetaSampler"),
        "authors": AuthorsScheme(model, sgd(), (train, meta)),
    }
    for trainer in trainers.values():
        trainer.iter = 0
    return {"forwards": forwards} | {name: t.run_step for name, t in trainers.items()}


def peak_memory(args: argparse.Namespace, name: str, result) -> None:
    """Peak memory in MiB, resident or on the GPU, of a process that makes three steps."""
    torch.set_num_threads(args.threads)
    step = candidates(args)[name]
    with EventStorage():
        for _ in range(3):
            step()
    if args.device == "cpu":
        result.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    else:
        result.put(torch.cuda.max_memory_allocated() / 2**20)


def measure_time(args: argparse.Namespace) -> dict[str, list[float]]:
    steps = candidates(args)
    times: dict[str, list[float]] = {name: [] for name in steps}
    with EventStorage():
        for turn in range(args.rounds + 1):
            for name, step in steps.items():
                torch.manual_seed(turn)
                start = seconds(args.device)
                step()
                taken = seconds(args.device) - start
                if turn:
                    times[name].append(taken)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=512, help="pixels of an image's side")
    parser.add_argument("--images", type=int, default=2, help="images of a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    measured = measure_time(args)
    print(f"{args.images} images of {args.size} pixels, {args.device}, torch {torch.__version__}")
    print(f"{'':9} {'seconds':>8} {'/ plain':>8} {'/ forwards':>11} {'/ balms':>8} {'peak MiB':>9}")
    for name, times in measured.items():
        ratios = [
            statistics.median(t / o for t, o in zip(times, measured[other]))
            for other in ("plain", "forwards", "balms")
        ]
        shown = " ".join(f"{r:{w}.2f}" for r, w in zip(ratios, (8, 11, 8)))
        memory = "" if args.no_memory else f"{in_own_process(args, name):9.0f}"
        print(f"{name:9} {statistics.median(times):8.3f} {shown} {memory}", flush=True)


def in_own_process(args: argparse.Namespace, name: str) -> float:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=peak_memory, args=(args, name, queue))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"measuring the memory of {name} failed")
    return queue.get()


if __name__ == "__main__":
    main()
