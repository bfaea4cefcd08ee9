"""Box predictor and ROI heads; importing it fills Detectron2's registry of ROI heads."""

from balms_det.modeling.authors_presets import (
    BalancedSoftmaxROIHeads,
    SigmoidROIHeads,
    translate_authors_keys,
)
from balms_det.modeling.box_predictor import BoxPredictor, build_loss_from_config
from balms_det.modeling.calibration import (
    CalibratedCascadeROIHeads,
    CalibratedROIHeads,
    build_calibration,
    calibrate_model,
)
from balms_det.modeling.fast_inference import fast_rcnn_inference
from balms_det.modeling.fast_inference_hooks import use_fast_inference
from balms_det.modeling.roi_heads import LongTailBoxMixin, LongTailCascadeROIHeads, LongTailROIHeads
from balms_det.modeling.small_backbone import build_small_resnet_fpn_backbone

__all__ = [
    "BalancedSoftmaxROIHeads",
    "BoxPredictor",
    "CalibratedCascadeROIHeads",
    "CalibratedROIHeads",
    "LongTailBoxMixin",
    "LongTailCascadeROIHeads",
    "LongTailROIHeads",
    "SigmoidROIHeads",
    "build_calibration",
    "build_loss_from_config",
    "build_small_resnet_fpn_backbone",
    "calibrate_model",
    "fast_rcnn_inference",
    "translate_authors_keys",
    "use_fast_inference",
]
