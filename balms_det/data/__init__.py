"""From annotation files to batches: class statistics, datasets, samplers, mapper."""

from balms_det.data.class_stats import ClassStats, build_class_stats

__all__ = ["ClassStats", "build_class_stats"]
