"""Who computes precision and recall: functions of (truth, detections, iou_type)."""

from balms_det.evaluation.backends import official, rust

BACKENDS = {"hotcoco": rust.evaluate, "official": official.evaluate}
