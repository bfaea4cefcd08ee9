"""Who computes precision and recall: functions of (truth, detections, iou_type)."""

from balms_det.evaluation.backends import official, rust
from balms_det.evaluation.backends.official import evaluate_boundary
from balms_det.evaluation.backends.rust import evaluate_results

BACKENDS = {"hotcoco": rust.evaluate, "official": official.evaluate}

__all__ = ["BACKENDS", "evaluate_boundary", "evaluate_results"]
