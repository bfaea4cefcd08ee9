"""Test-time calibration of models that are already trained, by name."""

from balms_det.modeling.calibration.attach import (
    CalibratedCascadeROIHeads,
    CalibratedROIHeads,
    CalibrationMixin,
    box_predictors,
    calibrate_model,
    check_calibrated,
    head_of,
)
from balms_det.modeling.calibration.base import (
    CALIBRATION_REGISTRY,
    Calibration,
    Head,
    build_calibration,
    calibration_class,
)
from balms_det.modeling.calibration.class_prior import LogitAdjustment, NorCal
from balms_det.modeling.calibration.fracal import FRACAL, frequency_weights
from balms_det.modeling.calibration.logits import (
    LogitNormalization,
    LogitStatistics,
    TauNormalization,
    TemperatureScaling,
    tau_scale,
)

__all__ = [
    "CALIBRATION_REGISTRY",
    "FRACAL",
    "CalibratedCascadeROIHeads",
    "CalibratedROIHeads",
    "Calibration",
    "CalibrationMixin",
    "Head",
    "LogitAdjustment",
    "LogitNormalization",
    "LogitStatistics",
    "NorCal",
    "TauNormalization",
    "TemperatureScaling",
    "box_predictors",
    "build_calibration",
    "calibrate_model",
    "calibration_class",
    "check_calibrated",
    "frequency_weights",
    "head_of",
    "tau_scale",
]
