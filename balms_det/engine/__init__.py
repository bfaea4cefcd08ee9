"""Training: the trainer, decoupled training, loading weights, setting up a run."""

from balms_det.engine.checkpoint import LongTailCheckpointer, load_trained_weights, load_weights
from balms_det.engine.config import load_cfg, load_prediction_cfg
from balms_det.engine.launch import launch_main, setup_cfg
from balms_det.engine.trainer import LongTailPredictor, LongTailTrainer, freeze_all_but

__all__ = [
    "LongTailCheckpointer",
    "LongTailPredictor",
    "LongTailTrainer",
    "freeze_all_but",
    "launch_main",
    "load_cfg",
    "load_prediction_cfg",
    "load_trained_weights",
    "load_weights",
    "setup_cfg",
]
