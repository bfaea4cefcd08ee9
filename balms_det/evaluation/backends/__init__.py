"""Who computes precision and recall: functions of (truth, detections, iou_type)."""

from balms_det.evaluation.backends import hotcoco as rust
from balms_det.evaluation.backends import official
from balms_det.evaluation.backends.hotcoco import evaluate_results
from balms_det.evaluation.backends.official import evaluate_boundary

BACKENDS = {"hotcoco": rust.evaluate, "official": official.evaluate}

__all__ = ["BACKENDS", "evaluate_boundary", "evaluate_results"]
