"""The trainer: Detectron2's DefaultTrainer with decoupled training and long-tail evaluation."""

import contextlib
import functools

import torch
from detectron2.engine import DefaultTrainer, defaults
from detectron2.utils import comm

from balms_det.data.build import build_train_loader
from balms_det.engine.checkpoint import LongTailCheckpointer
from balms_det.engine.freeze import freeze_all_but
from balms_det.engine.loss_progress import LossProgress, scheduled_losses
from balms_det.engine.results import write_results
from balms_det.evaluation import build_evaluator


class LongTailTrainer(DefaultTrainer):
    """Trains stage 1, stage 2 or end to end; the config alone decides.

    Over ``DefaultTrainer`` it adds: ``MODEL.DECOUPLED`` (stage 2), classifier conversion when
    weights are loaded, balms_det's samplers and mapper, an evaluator for LVIS- and COCO-format
    data, ``results.json`` in ``OUTPUT_DIR``, and distributed training on the CPU.
    """

    def __init__(self, cfg):
        with _ddp_without_device_ids(cfg):
            super().__init__(cfg)

    def build_hooks(self):
        losses = scheduled_losses(self.model)
        return ([LossProgress(losses)] if losses else []) + super().build_hooks()

    @classmethod
    def build_model(cls, cfg):
        model = super().build_model(cfg)
        if cfg.MODEL.DECOUPLED.ENABLED:
            freeze_all_but(model, list(cfg.MODEL.DECOUPLED.TRAIN_ONLY))
        return model

    @classmethod
    def build_train_loader(cls, cfg):
        return build_train_loader(cfg)

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
        else:
            load_weights(self.cfg, self.model)


def load_weights(cfg, model: torch.nn.Module) -> None:
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
    trained = stage2.TRAIN_ONLY if stage2.ENABLED else None
    checkpointer = LongTailCheckpointer(model, require_all_but=trained)
    if cfg.MODEL.WEIGHTS and not checkpointer.path_manager.isfile(cfg.MODEL.WEIGHTS):
        raise FileNotFoundError(f"MODEL.WEIGHTS: there is no file {cfg.MODEL.WEIGHTS!r}")
    checkpointer.load(cfg.MODEL.WEIGHTS)


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
