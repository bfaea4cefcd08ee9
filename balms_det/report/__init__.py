"""A self-contained HTML page that shows which classes fail and how."""

from balms_det.report.write import write_report

__all__ = ["write_report"]
