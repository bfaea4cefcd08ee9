"""A self-contained HTML page that shows which classes fail and how."""

from balms_det.evaluation.report.build import write_report

__all__ = ["write_report"]
