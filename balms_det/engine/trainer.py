"""The trainer: Detectron2's DefaultTrainer with decoupled training and long-tail evaluation."""

import contextlib
import functools
import logging
import weakref
from pathlib import Path

import torch
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, defaults
from detectron2.utils import comm

from balms_det.data.build import build_train_loader
from balms_det.data.mapper import StrictDatasetMapper
from balms_det.data.meta_set import build_meta_loader
from balms_det.engine.bounded_history import BoundedHistory
from balms_det.engine.checkpoint import LongTailCheckpointer
from balms_det.engine.checkpoint_files import RunCheckpointer
from balms_det.engine.freeze import freeze_all_but
from balms_det.engine.loss_progress import LossProgress, scheduled_losses
from balms_det.engine.meta_trainer import build_meta_trainer
from balms_det.engine.metrics_file import METRICS, keep_metrics_before
from balms_det.engine.non_finite import build_non_finite_guard
from balms_det.engine.rate_history import build_rate_history
from balms_det.engine.results import write_results
from balms_det.engine.step_seed import SeedEveryStep
from balms_det.evaluation import build_evaluator
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
        self.checkpointer = RunCheckpointer(
            self._trainer.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
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
            self._complete_last_save()
        else:
            load_weights(self.cfg, self.model)
        if resume and comm.is_main_process():
            keep_metrics_before(Path(self.cfg.OUTPUT_DIR, METRICS), self.start_iter)

    def _complete_last_save(self):
        # A run that was killed between its last numbered checkpoint and model_final has no
        # iteration left in which Detectron2 would save the latter.
        if self.start_iter >= self.max_iter and self.checkpointer.resumed_from != f"{FINAL}.pth":
            self.checkpointer.save(FINAL, iteration=self.start_iter - 1)


def load_weights(cfg, model: torch.nn.Module, *, whole: bool = False) -> None:
    """Load ``MODEL.WEIGHTS`` into a model, converting the box classifier where it has to be.

    Raises:
        ValueError: stage 2 without stage 1 weights.
        FileNotFoundError: ``MODEL.WEIGHTS`` names a local file that does not exist.
    """
    stage2 = cfg.MODEL.DECOUPLED
    if stage2.ENABLED and not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "MODEL.DECOUPLED.ENABLED freezes all but the classifier, and MODEL.WEIGHTS is empty: "
            "the frozen parts would stay random. Set MODEL.WEIGHTS to a stage 1 checkpoint."
        )
    trained = [] if whole else stage2.TRAIN_ONLY if stage2.ENABLED else None
    checkpointer = LongTailCheckpointer(model, require_all_but=trained)
    if cfg.MODEL.WEIGHTS and not checkpointer.path_manager.isfile(cfg.MODEL.WEIGHTS):
        raise FileNotFoundError(f"MODEL.WEIGHTS: there is no file {cfg.MODEL.WEIGHTS!r}")
    checkpointer.load(cfg.MODEL.WEIGHTS)


def load_trained_weights(cfg, model: torch.nn.Module) -> None:
    """:func:`load_weights` of a model that is not to be trained.

    Raises:
        ValueError: ``MODEL.WEIGHTS`` is empty, or does not hold every parameter.
        FileNotFoundError: it names a local file that does not exist.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("MODEL.WEIGHTS is empty: name the checkpoint of the trained model.")
    load_weights(cfg, model, whole=True)


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
