"""What a step of classifier training costs from cached features, against stage 2 in the detector.

    python benchmarks/classifier_training.py [--rounds 5] [--size 800] [--images 2] [--threads 1]
                                             [--device cpu]

Two detectors: that of ``configs/quickstart`` on its own data (``make_icons.py`` makes it), with
loading and augmentation, and a Mask R-CNN R50-FPN with the 1,203 classes of LVIS on generated
images that are in memory already. Weights are random, which costs as much as trained ones; the RPN
proposes its anchors, so that there are proposals to sample from.

A step is that of the trainer of ``tools/train_net.py`` (forward pass, loss, backward pass of the
classifier, SGD), and from the cache that of ``tools/train_classifier.py``, features in memory as
float16. Batches are composed alike: so many RoIs of an image, with the detector's share of
foreground. From the cache they may be larger at no cost of memory, so that is measured too.

Time is processor time on a CPU and wall-clock time on CUDA. The ratio is of
time per RoI that the classifier has seen, the median over rounds in which all take turns.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage
from meta_step import make_batch
from timing import seconds
from torch import Tensor

from balms_det.classifier import RoIPool, build_classifier_trainer
from balms_det.engine import LongTailTrainer, load_cfg
from balms_det.modeling.box_predictor import box_predictors

CONFIGS = Path(__file__).parents[1] / "configs"
ICONS = CONFIGS / "quickstart/stage2_softmax.yaml"
LVIS = CONFIGS / "LVISv1/mask_rcnn_R_50_FPN_balanced_softmax_stage2.yaml"


@dataclass
class Table:
    """Recorded RoIs, as a table of a cache holds them."""

    features: Tensor
    gt_classes: Tensor
    image: Tensor
    objects: Tensor

    def __len__(self) -> int:
        return len(self.gt_classes)

    def gather(self, index: Tensor) -> Tensor:
        return self.features[index]


def made_up_table(images: int, rois_per_image: int, foreground: float, cfg: CfgNode) -> Table:
    """RoIs of random features and labels: what they are changes no cost."""
    classes, width = cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.ROI_BOX_HEAD.FC_DIM
    number = torch.arange(images * rois_per_image)
    is_foreground = number % rois_per_image < int(rois_per_image * foreground)
    return Table(
        features=torch.randn(len(number), width).half(),
        gt_classes=torch.where(is_foreground, torch.randint(classes, number.shape), classes),
        image=number // rois_per_image,
        objects=torch.where(is_foreground, number // 4, -1),
    )


class DetectorSteps:
    """Stage 2 through the detector, step by step."""

    def __init__(self, cfg: CfgNode, loader):
        torch.manual_seed(0)
        self.model = LongTailTrainer.build_model(cfg).train()
        deltas = self.model.proposal_generator.rpn_head.anchor_deltas
        torch.nn.init.zeros_(deltas.weight)
        optimizer = build_optimizer(cfg, self.model)
        self.scheduler = build_lr_scheduler(cfg, optimizer)
        self.trainer = SimpleTrainer(self.model, loader, optimizer)
        self.trainer.iter = 0
        (predictor,) = box_predictors(self.model)
        predictor.register_forward_pre_hook(self._count)
        self.seen = 0

    def _count(self, _module, inputs: tuple[Tensor, ...]) -> None:
        self.seen += len(inputs[0])

    def __call__(self) -> None:
        self.trainer.run_step()
        self.scheduler.step()


class CachedSteps:
    """Stage 2 from the cache, ``count`` steps a call."""

    def __init__(self, cfg: CfgNode, pool: RoIPool, count: int):
        model = LongTailTrainer.build_model(cfg).train()
        self.trainer = build_classifier_trainer(cfg, box_predictors(model), [pool])
        self.batch = cfg.SOLVER.IMS_PER_BATCH * cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        self.count, self.seen = count, 0

    def __call__(self) -> None:
        for _ in range(self.count):
            self.trainer.step()
        self.seen += self.count * self.batch


def compare(name: str, cfg: CfgNode, loader, rounds: int, larger: int, count: int) -> None:
    """Print a line for batches as in the detector, and one for ``larger`` times as many images."""
    heads = cfg.MODEL.ROI_HEADS
    table = made_up_table(400, heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION, cfg)
    pool = RoIPool(table, heads.NUM_CLASSES, device=cfg.MODEL.DEVICE)
    wide = cfg.clone()
    wide.defrost()
    wide.SOLVER.IMS_PER_BATCH *= larger
    detector = DetectorSteps(cfg, loader)
    cached = [CachedSteps(cfg, pool, count), CachedSteps(wide, pool, count)]
    measured: list[list[float]] = []
    with EventStorage():
        for turn in range(rounds + 1):
            own = [seconds_per_roi(steps, cfg.MODEL.DEVICE) for steps in (detector, *cached)]
            if turn:
                measured.append(own)
    for place, steps in enumerate(cached, start=1):
        ratio = statistics.median(own[0] / own[place] for own in measured)
        shown = [1e6 * statistics.median(own[i] for own in measured) for i in (0, place)]
        print(f"{name:36} {steps.batch:9} {shown[0]:9.0f} {shown[1]:9.2f} {ratio:7.0f}", flush=True)


def seconds_per_roi(steps: DetectorSteps | CachedSteps, device: str) -> float:
    before, start = steps.seen, seconds(device)
    steps()
    return (seconds(device) - start) / (steps.seen - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=800, help="pixels of a generated image's side")
    parser.add_argument("--images", type=int, default=2, help="generated images of a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.device}, torch {torch.__version__}; microseconds per RoI")
    print(f"{'':36} {'RoIs/step':>9} {'detector':>9} {'cache':>9} {'ratio':>7}")
    common = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", args.device, "SEED", "0"]
    cfg = load_cfg(str(ICONS), common)
    loader = LongTailTrainer.build_train_loader(cfg)
    compare("icons_lt, D 256, K 60", cfg, loader, args.rounds, 4, 100)
    cfg = load_cfg(str(LVIS), [*common, "SOLVER.IMS_PER_BATCH", str(args.images)])
    batch = make_batch(args.images, args.size, cfg.MODEL.ROI_HEADS.NUM_CLASSES, seed=1)
    name = f"R50-FPN, {args.size} px, D 1024, K 1203"
    compare(name, cfg, itertools.repeat(batch), args.rounds, 4, 5)


if __name__ == "__main__":
    main()
