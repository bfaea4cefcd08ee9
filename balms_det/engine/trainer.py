"""The trainer: Detectron2's DefaultTrainer with decoupled training and long-tail evaluation."""

from __future__ import annotations

import contextlib
import functools
import logging
import weakref
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata, build_detection_test_loader
from detectron2.engine import DefaultPredictor, DefaultTrainer, defaults
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from torch import nn

from balms_det.annotations.image_reader import convert_pixels
from balms_det.data.build import build_meta_loader, build_train_loader
from balms_det.data.mapper import StrictDatasetMapper
from balms_det.engine.checkpoint import (
    RunCheckpointer,
    load_trained_weights,
    load_weights,
)
from balms_det.engine.hooks import (
    METRICS,
    BoundedHistory,
    LossProgress,
    SeedEveryStep,
    build_rate_history,
    keep_metrics_before,
    scheduled_losses,
)
from balms_det.engine.identity import (
    check_evaluated_classes,
    config_classes,
    model_identity,
    read_identity,
    run_of,
)
from balms_det.engine.meta_trainer import build_meta_trainer
from balms_det.engine.non_finite import build_non_finite_guard
from balms_det.engine.run_record import write_results
from balms_det.engine.test_data import check_test_data
from balms_det.evaluation import build_evaluator
from balms_det.modeling import use_fast_inference
from balms_det.modeling.calibration import check_calibrated

logger = logging.getLogger(__name__)

# Where the state of the trainer keeps that of its loader.
LOADER_KEY = "data_loader"
# As Detectron2 names the checkpoint of the last iteration.
FINAL = "model_final"


class LongTailTrainer(DefaultTrainer):
    """Trains stage 1, stage 2 or end to end; the config alone decides.

    Over ``DefaultTrainer`` it adds: ``MODEL.DECOUPLED`` (stage 2), classifier conversion when
    weights are loaded, balms_det's samplers and mapper, an evaluator for LVIS- and COCO-format
    data, ``results.json`` in ``OUTPUT_DIR``, distributed training on the CPU, a stop at NaN and
    infinity (``SOLVER.NON_FINITE``), checkpoints that are whole, and exact resume: with ``SEED``
    set, a run that was stopped and resumed ends in the same weights.
    """

    def __init__(self, cfg):
        check_test_data(cfg)
        with _ddp_without_device_ids(cfg):
            super().__init__(cfg)
        if cfg.META.NAME:
            self._trainer = build_meta_trainer(cfg, self._trainer, build_meta_loader(cfg))

    @classmethod
    def build_model(cls, cfg):
        model = super().build_model(cfg)
        if cfg.MODEL.DECOUPLED.ENABLED:
            freeze_all_but(model, list(cfg.MODEL.DECOUPLED.TRAIN_ONLY))
        check_calibrated(cfg, model)
        return model

    @classmethod
    def build_train_loader(cls, cfg):
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        mapper = StrictDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    def build_hooks(self):
        # In the place of the one that DefaultTrainer made, before the hook that saves gets it.
        run = run_of(self.cfg)
        self.checkpointer = RunCheckpointer(
            self._trainer.model,
            self.cfg.OUTPUT_DIR,
            identity=model_identity(self.cfg, self._trainer.model, run),
            trainer=weakref.proxy(self),
        )
        hooks = super().build_hooks()
        if self.cfg.META.NAME:
            # Before the hook that saves checkpoints, which hold the history.
            hooks.insert(1, build_rate_history(self.cfg))
        losses = scheduled_losses(self.model)
        if losses:
            hooks.insert(0, LossProgress(losses))
        hooks.insert(0, build_non_finite_guard(self.cfg))
        hooks.insert(0, BoundedHistory())
        return [SeedEveryStep(self.cfg.SEED), *hooks] if self.cfg.SEED >= 0 else hooks

    def state_dict(self):
        state = super().state_dict()
        if hasattr(self.data_loader, "state_dict"):
            state[LOADER_KEY] = self.data_loader.state_dict()
        return state

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        if not hasattr(self.data_loader, "load_state_dict"):
            return
        if LOADER_KEY in state_dict:
            self.data_loader.load_state_dict(state_dict[LOADER_KEY])
        else:
            logger.warning(
                "The checkpoint does not say where its training data stood (another version or "
                "another sampler saved it): the data start over."
            )

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        check_evaluated_classes(cfg, dataset_name)
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            write_results(cfg, results)
        return results

    def resume_or_load(self, resume=True):
        if resume and self.checkpointer.has_checkpoint():
            super().resume_or_load(resume=True)
            if self.start_iter >= self.max_iter:
                logger.warning(
                    "Nothing is left to train: %s was written after iteration %d, and "
                    "SOLVER.MAX_ITER is %d.",
                    self.checkpointer.resumed_from,
                    self.start_iter,
                    self.max_iter,
                )
            self._complete_last_save()
        else:
            load_weights(self.cfg, self.model)
            if comm.is_main_process():
                self.checkpointer.forget_last()
        if resume and comm.is_main_process():
            keep_metrics_before(Path(self.cfg.OUTPUT_DIR, METRICS), self.start_iter)

    def _complete_last_save(self):
        # A run that was killed between its last numbered checkpoint and model_final has no
        # iteration left in which Detectron2 would save the latter.
        if self.start_iter >= self.max_iter and self.checkpointer.resumed_from != f"{FINAL}.pth":
            self.checkpointer.save(FINAL, iteration=self.start_iter - 1)


@contextlib.contextmanager
def _ddp_without_device_ids(cfg):
    # DefaultTrainer always passes device ids to DDP, which refuses them for a model on the CPU.
    original = defaults.create_ddp_model
    if torch.device(cfg.MODEL.DEVICE).type == "cpu":
        defaults.create_ddp_model = functools.partial(original, device_ids=None)
    try:
        yield
    finally:
        defaults.create_ddp_model = original


def freeze_all_but(model: nn.Module, names: list[str]) -> nn.Module:
    """Freeze every parameter whose dotted name has none of ``names`` as one of its parts.

    Batch normalisation of frozen parts becomes :class:`FrozenBatchNorm2d`: its running mean and
    variance would otherwise go on moving although no parameter does.

    Args:
        model: changed in place.
        names: for example ``["cls_score"]`` or ``["box_predictor"]``.

    Returns:
        The model.

    Raises:
        ValueError: a name matches no parameter.
    """
    parameters = dict(model.named_parameters())
    for name in names:
        if not any(name in key.split(".") for key in parameters):
            raise ValueError(
                f"MODEL.DECOUPLED.TRAIN_ONLY names {name!r}, which is no part of any parameter's "
                f"name in this model. Names look like {next(reversed(parameters))!r}."
            )
    trained = [key for key in parameters if set(names) & set(key.split("."))]
    for key, parameter in parameters.items():
        parameter.requires_grad = key in trained
    model = _freeze_batch_norm(model, trained)
    logger.info(
        "Stage 2: training %s; %d other parameter tensors are frozen",
        ", ".join(trained),
        len(parameters) - len(trained),
    )
    return model


def _freeze_batch_norm(model: nn.Module, trained: list[str]) -> nn.Module:
    for name, child in model.named_children():
        inside = [key.removeprefix(f"{name}.") for key in trained if key.startswith(f"{name}.")]
        if inside:
            _freeze_batch_norm(child, inside)
        else:
            setattr(model, name, FrozenBatchNorm2d.convert_frozen_batchnorm(child))
    return model


class LongTailPredictor(DefaultPredictor):
    """``DefaultPredictor`` with fast inference, and weights that are converted where they have to.

    It is called with one image, (H, W, 3) uint8 in BGR, and returns the model's output for it.
    ``metadata`` has the class names, for drawing.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: a config of :func:`balms_det.engine.load_cfg`.

        Raises:
            FileNotFoundError, ValueError: see :func:`balms_det.engine.load_weights`.
        """
        unloaded = cfg.clone()
        unloaded.defrost()
        unloaded.MODEL.WEIGHTS = ""
        unloaded.INPUT.FORMAT = "BGR"  # Detectron2's predictor knows RGB besides, and no others
        super().__init__(unloaded)
        self.cfg = cfg.clone()
        if not cfg.DATASETS.TEST:  # as Detectron2 has it of the first of those
            self.metadata = _metadata(cfg)
        load_trained_weights(cfg, self.model)
        use_fast_inference(self.model)

    def __call__(self, original_image: np.ndarray) -> dict:
        """Predict on an image, (H, W, 3) uint8 BGR, converted to ``INPUT.FORMAT``."""
        image = convert_pixels(original_image[:, :, ::-1], self.cfg.INPUT.FORMAT)
        return super().__call__(image)


def _metadata(cfg: CfgNode) -> Metadata:
    """Names and colours of the model's classes, as far as its data or its checkpoint tell."""
    names, metadata = config_classes(cfg).names, Metadata()
    if names is not None:
        metadata.thing_classes = list(names)
    identity = read_identity(cfg.MODEL.WEIGHTS)
    if identity is not None and identity.colours is not None:
        metadata.thing_colors = identity.colours
    return metadata
