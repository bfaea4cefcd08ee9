"""Who computes precision and recall: functions of (truth, detections, iou_type, boundary)."""

from balms_det.evaluation.backends import official

BACKENDS = {"official": official.evaluate, "hotcoco": official.evaluate}
