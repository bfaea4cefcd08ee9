"""Box predictor and ROI heads; importing it fills Detectron2's registry of ROI heads."""

from balms_det.modeling.authors_presets import (
    BalancedSoftmaxROIHeads,
    SigmoidROIHeads,
    translate_authors_keys,
)
from balms_det.modeling.box_predictor import BoxPredictor, build_loss_from_config
from balms_det.modeling.roi_heads import LongTailBoxMixin, LongTailCascadeROIHeads, LongTailROIHeads

__all__ = [
    "BalancedSoftmaxROIHeads",
    "BoxPredictor",
    "LongTailBoxMixin",
    "LongTailCascadeROIHeads",
    "LongTailROIHeads",
    "SigmoidROIHeads",
    "build_loss_from_config",
    "translate_authors_keys",
]
