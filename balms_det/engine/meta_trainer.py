"""The training loop of BALMS: a meta step before every step of the detector.

One forward pass of the training batch and one of the meta batch: the meta step works on the
features that they leave before the box classifier (see :mod:`balms_det.meta`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import get_event_storage
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from balms_det.meta import MetaStep, RoIBatch, Stage, build_meta_learner
from balms_det.modeling.box_predictor import box_predictors
from balms_det.modeling.recording import record_silently, recorded


class MetaStepTrainer(SimpleTrainer):
    """Detectron2's ``SimpleTrainer`` with a meta step; its state is in the checkpoint.

    What trains besides the classifier, if anything, trains on its own losses and on the weighted
    classification loss. ``meta_loss`` and every loss of the detector reach the event storage; the
    forward pass of the meta batch does not.

    Args:
        model: a detector with ROI heads of balms_det, or DDP around it.
        data_loader: training batches.
        optimizer: a ``torch.optim.SGD`` that trains the box classifier.
        meta_loader: meta batches.
        meta_step: owns the learner; on the device of the model.
        sampler_period: every so many iterations the learner's rates reach the sampler of
            ``data_loader``, if it takes any (``set_rates``).
        amp_dtype: autocast dtype of the forward passes; None for full precision. The meta step
            itself always runs in full precision.

    Raises:
        TypeError: the optimiser is no plain SGD, whose step is known.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.SGD,
        meta_loader: Iterable,
        meta_step: MetaStep,
        *,
        sampler_period: int = 20,
        amp_dtype: torch.dtype | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        check_optimizer(optimizer)
        self.detector = model.module if isinstance(model, DistributedDataParallel) else model
        self.predictors = box_predictors(self.detector)
        self.meta_loader = meta_loader
        self.meta_step = meta_step
        self.sampler_period = sampler_period
        self.amp_dtype = amp_dtype
        scaler_type = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)  # torch < 2.3
        self.grad_scaler = scaler_type(enabled=amp_dtype == torch.float16)
        # Images that the sampler drew for a class, on this rank: (K,), all 0 with other samplers.
        self.images_drawn = torch.zeros(meta_step.learner.num_classes, dtype=torch.long)
        self._meta_iterator = None
        # What has to be finite besides the losses (balms_det.engine.non_finite).
        self.further_losses: dict[str, Tensor] = {}

    def run_step(self) -> None:
        """One step; raises FloatingPointError when a loss or the meta loss is not finite."""
        self._publish_rates()
        start = time.perf_counter()
        if self._meta_iterator is None:
            self._meta_iterator = iter(self.meta_loader)
        data, meta_data = next(self._data_loader_iter), next(self._meta_iterator)
        data_time = time.perf_counter() - start
        self._count_draws(data)
        with self._autocast():
            meta = record_silently(self.detector, self.predictors, meta_data)
        # An autocast of its own: it keeps the weights that it has cast, and in older versions of
        # torch those that were cast without a graph get no gradient (pytorch issue 112583).
        with self._autocast(), recorded(self.predictors) as train:
            losses = self.model(data)
        stages = self._stages(train, meta)
        weighted, meta_loss = self.meta_step(stages, self.optimizer)
        self._backward(losses, stages, [loss.grad_logits for loss in weighted])
        self.after_backward()
        for name, loss in zip(self._loss_names(), weighted):
            losses[name] = loss.value
        self.further_losses = {"meta_loss": meta_loss}
        self._write_metrics(losses, data_time)
        self._write_meta_loss()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _publish_rates(self) -> None:
        sampler = getattr(self.data_loader, "sampler", None)
        if hasattr(sampler, "set_rates") and self.iter % self.sampler_period == 0:
            sampler.set_rates(self.meta_step.learner.rates().cpu())

    def _count_draws(self, data: list[dict]) -> None:
        # Only MetaTrainingSampler says which class an image was drawn for; -1 is none.
        drawn = [record for record in data if record.get("meta_class", -1) >= 0]
        for record in drawn:
            self.images_drawn[record["meta_class"]] += 1
        if drawn:
            rates = [record["meta_rate"] for record in drawn]
            get_event_storage().put_scalar("meta_rate/drawn_images", np.mean(rates))

    def _autocast(self):
        if self.amp_dtype is None:
            return contextlib.nullcontext()
        device = next(self.detector.parameters()).device
        return torch.autocast(device.type, dtype=self.amp_dtype)

    def _stages(self, train: list[RoIBatch], meta: list[RoIBatch]) -> list[Stage]:
        return [
            Stage(
                predictor.cls_score,
                predictor.cls_loss,
                *batches,
                loss_weight=predictor.loss_weight.get("loss_cls", 1.0),
            )
            for predictor, *batches in zip(self.predictors, train, meta)
        ]

    def _loss_names(self) -> list[str]:
        # As Detectron2 names them: a cascade adds the stage.
        if len(self.predictors) == 1:
            return ["loss_cls"]
        return [f"loss_cls_stage{k}" for k in range(len(self.predictors))]

    def _backward(
        self, losses: dict[str, Tensor], stages: list[Stage], grad_logits: list[Tensor]
    ) -> None:
        self.optimizer.zero_grad()
        scale = self.grad_scaler.scale(torch.ones((), device=grad_logits[0].device))
        trained = [loss for loss in losses.values() if loss.requires_grad]
        torch.autograd.backward(
            [stage.train.logits for stage in stages] + trained,
            [gradient * scale for gradient in grad_logits]
            + [scale.to(loss.dtype).expand_as(loss) for loss in trained],
        )

    def _write_meta_loss(self) -> None:
        value = self.further_losses["meta_loss"].item()  # on the host already, with a guard
        if not np.isfinite(value):
            raise FloatingPointError(
                f"The meta loss became {value} at iteration={self.iter}: the features of the meta "
                "batch or the classifier hold NaN or infinity. Look at the images of the meta set "
                "(META.DATASETS), or lower SOLVER.BASE_LR"
            )
        get_event_storage().put_scalar("meta_loss", value, cur_iter=self.iter)

    def state_dict(self) -> dict:
        state = super().state_dict()
        if hasattr(self.meta_loader, "state_dict"):
            state["meta_loader"] = self.meta_loader.state_dict()
        state["images_drawn"] = self.images_drawn.clone()
        state["meta_step"] = self.meta_step.state_dict()
        state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        if "meta_step" not in state_dict:
            raise KeyError(
                "the checkpoint to resume from holds no meta learner: it was written by a run "
                "with META.NAME empty. Start a new OUTPUT_DIR, or resume with the same META.NAME"
            )
        super().load_state_dict(state_dict)
        self.meta_step.load_state_dict(state_dict["meta_step"])
        self.images_drawn = state_dict["images_drawn"].clone()
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        if "meta_loader" in state_dict:
            self.meta_loader.load_state_dict(state_dict["meta_loader"])


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise TypeError unless the optimiser's step is exactly that of ``torch.optim.SGD``."""
    if (
        not isinstance(optimizer, torch.optim.SGD)
        or type(optimizer).step is not torch.optim.SGD.step
    ):
        raise TypeError(
            f"a meta learner looks ahead by one step of SGD, and the optimiser is "
            f"{type(optimizer).__name__}. Use SGD, and set SOLVER.CLIP_GRADIENTS.ENABLED: False"
        )


def build_meta_step(cfg: CfgNode) -> MetaStep:
    """The learner and its Adam that the node ``META`` describes, on ``MODEL.DEVICE``."""
    node = cfg.META
    arguments = {key.lower(): value for key, value in node.ARGS.items()}
    learner = build_meta_learner(node.NAME, cfg.MODEL.ROI_HEADS.NUM_CLASSES, **arguments)
    learner.to(torch.device(cfg.MODEL.DEVICE))
    return MetaStep(learner, meta_loss=node.LOSS, lr=node.LR, betas=tuple(node.BETAS))


def build_meta_trainer(
    cfg: CfgNode, trainer: SimpleTrainer, meta_loader: Iterable
) -> MetaStepTrainer:
    """The trainer that takes over from the one that ``DefaultTrainer`` has built."""
    return MetaStepTrainer(
        trainer.model,
        trainer.data_loader,
        trainer.optimizer,
        meta_loader,
        build_meta_step(cfg),
        sampler_period=cfg.META.SAMPLER_PERIOD,
        amp_dtype=torch.float16 if cfg.SOLVER.AMP.ENABLED else None,
    )
