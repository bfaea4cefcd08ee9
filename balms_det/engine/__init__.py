"""Training: the trainer, decoupled training, loading weights, setting up a run."""

from balms_det.engine.checkpoint import LongTailCheckpointer
from balms_det.engine.freeze import freeze_all_but
from balms_det.engine.predictor import LongTailPredictor
from balms_det.engine.setup import launch_main, load_cfg, setup_cfg
from balms_det.engine.trainer import LongTailTrainer, load_trained_weights, load_weights

__all__ = [
    "LongTailCheckpointer",
    "LongTailPredictor",
    "LongTailTrainer",
    "freeze_all_but",
    "launch_main",
    "load_cfg",
    "load_trained_weights",
    "load_weights",
    "setup_cfg",
]
