"""What a step of classifier training costs from cached features, against stage 2 in the detector.

    python benchmarks/classifier_training.py [--rounds 5] [--size 800] [--images 2] [--threads 1]

Two detectors: that of ``configs/quickstart`` on its own data (``make_icons.py`` first), with loading
and augmentation, and a Mask R-CNN R50-FPN with the 1,203 classes of LVIS on generated images that
are in memory already. Both have random weights, which cost as much as trained ones. A step is that
of the trainer of ``tools/train_net.py`` (forward pass, loss, backward pass of the classifier, SGD);
from the cache it is that of ``tools/train_classifier.py``, on the features that the detector
recorded in the same run, in batches composed alike.

Time is processor time on a CPU, so that waiting for other processes does not count. The ratio is of
time per RoI that the classifier has seen, the median over rounds in which both take turns.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage
from meta_step import make_batch
from torch import Tensor

from balms_det.engine import LongTailTrainer, load_cfg
from balms_det.engine.classifier import RoIPool, build_classifier_trainer
from balms_det.modeling.recording import box_predictors

CONFIGS = Path(__file__).parents[1] / "configs"
ICONS = CONFIGS / "quickstart/stage2_softmax.yaml"
LVIS = CONFIGS / "LVISv1/mask_rcnn_R_50_FPN_balanced_softmax_stage2.yaml"
RECORDED = 12  # batches that the cache is made of


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


class Detector:
    """Stage 2 through the detector, step by step; keeps what its classifier reads."""

    def __init__(self, cfg: CfgNode, loader):
        torch.manual_seed(0)
        self.model = LongTailTrainer.build_model(cfg).train()
        optimizer = build_optimizer(cfg, self.model)
        self.scheduler = build_lr_scheduler(cfg, optimizer)
        self.trainer = SimpleTrainer(self.model, loader, optimizer)
        self.trainer.iter = 0
        self.seen: list[tuple[Tensor, Tensor]] = []
        (self.predictor,) = box_predictors(self.model)
        self.predictor.register_forward_hook(self._note)

    def _note(self, _module, inputs, _output) -> None:
        self._features = inputs[0].detach().flatten(1)

    def step(self) -> int:
        """One step; how many RoIs the classifier saw."""
        self.trainer.run_step()
        self.scheduler.step()
        return len(self._features)

    def record(self, batches: int, rois_per_image: int, foreground: float) -> Table:
        """A table of ``batches`` batches, whose images have as much foreground as they may.

        Labels are made up: noise has few true objects, and what they are does not change the cost.
        """
        features = []
        for _ in range(batches):
            self.step()
            features.append(self._features.half())
        features = torch.cat(features)
        image = torch.arange(len(features)) // rois_per_image
        is_foreground = torch.arange(len(features)) % rois_per_image < rois_per_image * foreground
        classes = self.predictor.num_classes
        labels = torch.where(is_foreground, torch.randint(classes, (len(features),)), classes)
        objects = torch.where(is_foreground, torch.arange(len(features)) // 4, -1)
        return Table(features, labels, image, objects)


def compare(
    name: str, config: Path, opts: list[str], loader, rounds: int, cached_steps: int
) -> None:
    cfg = load_cfg(str(config), ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "SEED", "0", *opts])
    heads = cfg.MODEL.ROI_HEADS
    detector = Detector(cfg, loader(cfg))
    with EventStorage():
        table = detector.record(RECORDED, heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION)
        pool = RoIPool(table, heads.NUM_CLASSES)
        model = LongTailTrainer.build_model(cfg).train()
        cached = build_classifier_trainer(cfg, box_predictors(model), [pool])
        cached.step()
        seconds: dict[str, list[float]] = {"detector": [], "cached": []}
        for _ in range(rounds):
            start = time.process_time()
            seen = detector.step()
            seconds["detector"].append((time.process_time() - start) / seen)
            position, start = cached.stages[0].sampler.position, time.process_time()
            for _ in range(cached_steps):
                cached.step()
            spent = time.process_time() - start
            drawn = cached.stages[0].sampler.position - position
            batch = cfg.SOLVER.IMS_PER_BATCH * heads.BATCH_SIZE_PER_IMAGE
            seconds["cached"].append(spent / (drawn * batch))
    ratio = statistics.median(d / c for d, c in zip(seconds["detector"], seconds["cached"]))
    detector_us, cached_us = (1e6 * statistics.median(times) for times in seconds.values())
    print(f"{name:30} {batch:9} {detector_us:13.1f} {cached_us:11.2f} {ratio:8.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=800, help="pixels of a generated image's side")
    parser.add_argument("--images", type=int, default=2, help="generated images of a batch")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}; microseconds of processor time per RoI")
    print(f"{'':30} {'RoIs/step':>9} {'in the detector':>13} {'from cache':>11} {'ratio':>8}")

    def generated(cfg: CfgNode):
        batch = make_batch(args.images, args.size, cfg.MODEL.ROI_HEADS.NUM_CLASSES, seed=1)
        return itertools.repeat(batch)

    images = ["SOLVER.IMS_PER_BATCH", str(args.images), "DATASETS.TEST", "()"]
    icons = LongTailTrainer.build_train_loader
    compare("icons_lt, D 256, K 60", ICONS, [], icons, args.rounds, 100)
    name = f"R50-FPN, {args.size} px, D 1024, K 1203"
    compare(name, LVIS, images, generated, args.rounds, 5)


if __name__ == "__main__":
    main()
