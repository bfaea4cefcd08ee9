"""The training loop of a classifier on cached RoIs: the steps that stage 2 through the detector
makes, without the detector.

Symbols: see :mod:`balms_det.classifier.pool`. A cascade has a stage for each of its
predictors, which train together as in the detector: one optimiser and one meta learner for all.

Symbols: see :mod:`balms_det.classifier.pool`.

"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler, build_optimizer
from torch import Tensor, nn

from balms_det.classifier.pool import RoIPool
from balms_det.classifier.samplers import RoISampler, build_roi_sampler
from balms_det.data.build import meta_set_config
from balms_det.engine.hooks import scheduled_losses
from balms_det.engine.meta_trainer import build_meta_step, check_optimizer
from balms_det.losses import ContextLoss
from balms_det.meta import MetaStep, RoIBatch, Stage
from balms_det.modeling import BoxPredictor
from balms_det.utils.randomness import derived_seed

logger = logging.getLogger(__name__)

#: Steps between two looks at the loss, which make an accelerator wait.
LOOK_PERIOD = 50


class ClassifierTrainer:
    """Trains the classifiers of one detector; a step is that of Detectron2's ``SimpleTrainer``.

    Args:
        stages: the predictors, in training mode, with their RoIs.
        optimizer: trains their classifiers.
        scheduler: of its learning rate, stepped after every step; ``max_iter`` steps are its whole.
        max_iter: length of the training.
        seed: of what losses draw; every step has random numbers of its own.
        meta_step: the meta learner, or None.
        rate_period: every so many steps its rates reach the samplers that take them.
    """

    def __init__(
        self,
        stages: Sequence[CachedStage],
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        *,
        max_iter: int,
        seed: int,
        meta_step: MetaStep | None = None,
        rate_period: int = 20,
    ):
        self.stages, self.optimizer, self.scheduler = list(stages), optimizer, scheduler
        self.max_iter, self.seed, self.iter = max_iter, seed, 0
        self.meta_step, self.rate_period = meta_step, rate_period
        self._scheduled = scheduled_losses(nn.ModuleList(stage.predictor for stage in stages))
        self.losses: list[tuple[int, float]] = []
        device = self.stages[0].pool.device
        # What losses draw from; torch.manual_seed, which seeds all, takes as long as a small step.
        self._generator = torch.default_generator
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._generator = torch.cuda.default_generators[index]

    def train(self) -> None:
        """Run to the end.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        while self.iter < self.max_iter:
            loss = self.step()
            if self.iter % LOOK_PERIOD == 0 or self.iter == self.max_iter:
                self._look(float(loss))

    def step(self) -> Tensor:
        """One step; the sum of the stages' losses, without graph."""
        self._generator.manual_seed(derived_seed("cached step", self.seed, self.iter))
        for loss in self._scheduled:
            loss.set_progress(self.iter / self.max_iter)
        loss = self._plain_step() if self.meta_step is None else self._meta_step()
        self.optimizer.step()
        self.scheduler.step()
        self.iter += 1
        return loss

    def _plain_step(self) -> Tensor:
        losses = []
        for stage in self.stages:
            batch = stage.train_batch()
            loss = stage.predictor.classification_loss(batch.logits, batch.gt_classes)
            losses.append(loss * stage.loss_weight)
            stage.forget_context()
        total = sum(losses)
        self.optimizer.zero_grad()
        total.backward()
        return total.detach()

    def _meta_step(self) -> Tensor:
        if self.iter % self.rate_period == 0:
            rates = self.meta_step.learner.rates().cpu()
            for stage in self.stages:
                stage.sampler.set_rates(rates)
        joined = [
            Stage(
                stage.predictor.cls_score,
                stage.predictor.cls_loss,
                stage.train_batch(),
                stage.meta_batch(),
                loss_weight=stage.loss_weight,
            )
            for stage in self.stages
        ]
        weighted, _ = self.meta_step(joined, self.optimizer)
        for stage in self.stages:
            stage.forget_context()
        self.optimizer.zero_grad()
        torch.autograd.backward(
            [stage.train.logits for stage in joined], [loss.grad_logits for loss in weighted]
        )
        return torch.stack([loss.value for loss in weighted]).sum()

    def _look(self, loss: float) -> None:
        self.losses.append((self.iter, loss))
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} at iteration {self.iter}: lower SOLVER.BASE_LR (--lr), "
                f"now {max(group['initial_lr'] for group in self.optimizer.param_groups):g}"
            )


def build_classifier_trainer(
    cfg: CfgNode,
    predictors: Sequence[BoxPredictor],
    pools: Sequence[RoIPool],
    *,
    sampler: str = "",
) -> ClassifierTrainer:
    """The trainer that a config describes: ``SOLVER``, ``META``, ``CLASSIFIER``, ``SEED``.

    Args:
        cfg: of stage 2.
        predictors: the detector's, in order; of all their parameters the trained ones alone
            require gradient.
        pools: the RoIs of each.
        sampler: name that takes the place of an empty ``CLASSIFIER.SAMPLER``.

    Raises:
        ValueError: ``META.DATASETS`` names a meta set, which the cache does not hold; and what
            :func:`build_roi_sampler` raises.
        TypeError: a meta learner with gradient clipping.
    """
    name = cfg.CLASSIFIER.SAMPLER or sampler
    optimizer = build_optimizer(cfg, nn.ModuleList(predictors))
    meta = bool(cfg.META.NAME)
    if meta:
        _check_meta(cfg, optimizer)
    stages = [
        CachedStage(
            predictor,
            pool,
            build_roi_sampler(cfg, pool, name),
            build_roi_sampler(meta_set_config(cfg), pool, "DetectorSampler") if meta else None,
        )
        for predictor, pool in zip(predictors, pools)
    ]
    return ClassifierTrainer(
        stages,
        optimizer,
        build_lr_scheduler(cfg, optimizer),
        max_iter=cfg.SOLVER.MAX_ITER,
        seed=max(cfg.SEED, 0),
        meta_step=build_meta_step(cfg) if meta else None,
        rate_period=cfg.META.SAMPLER_PERIOD,
    )


def _check_meta(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> None:
    if cfg.META.DATASETS:
        raise ValueError("META.DATASETS: meta batches come from the cache itself; leave it empty")
    check_optimizer(optimizer)


@dataclass
class CachedStage:
    """One box predictor with the RoIs that it is trained on.

    Attributes:
        predictor: whose ``cls_score`` trains.
        pool: the RoIs.
        sampler: which of them make a training batch.
        meta_sampler: which of them make a meta batch; None without a meta learner.
    """

    predictor: BoxPredictor
    pool: RoIPool
    sampler: RoISampler
    meta_sampler: RoISampler | None = None

    @property
    def loss_weight(self) -> float:
        return self.predictor.loss_weight.get("loss_cls", 1.0)

    def train_batch(self) -> RoIBatch:
        """The next batch, classified, with the rows that the loss adds; sets its context."""
        index = next(self.sampler)
        features, loss = self.pool.features(index), self.predictor.cls_loss
        batch = RoIBatch(features, self.predictor.cls_score(features), self.pool.labels(index))
        if isinstance(loss, ContextLoss):
            batch = self.predictor.in_context(batch, self.pool.context(loss, index))
        return batch

    def meta_batch(self) -> RoIBatch:
        """The next meta batch; the meta step makes its logits itself."""
        index = next(self.meta_sampler)
        features = self.pool.features(index)
        return RoIBatch(features, features.new_empty(0), self.pool.labels(index))

    def forget_context(self) -> None:
        if isinstance(self.predictor.cls_loss, ContextLoss):
            self.predictor.cls_loss.context = {}
