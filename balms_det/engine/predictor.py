"""A predictor for single images, whose weights may be of any Detectron2 R-CNN of the classes."""

from __future__ import annotations

import numpy as np
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from balms_det.data.image_reader import convert_pixels
from balms_det.engine.trainer import load_trained_weights
from balms_det.modeling import use_fast_inference


class LongTailPredictor(DefaultPredictor):
    """``DefaultPredictor`` with fast inference, and weights that are converted where they have to.

    It is called with one image, (H, W, 3) uint8 in BGR, and returns the model's output for it.
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
        load_trained_weights(cfg, self.model)
        use_fast_inference(self.model)

    def __call__(self, original_image: np.ndarray) -> dict:
        """Predict on an image, (H, W, 3) uint8 BGR, converted to ``INPUT.FORMAT``."""
        image = convert_pixels(original_image[:, :, ::-1], self.cfg.INPUT.FORMAT)
        return super().__call__(image)
