"""Evaluation: the evaluators that training uses and the tables that come out of them."""

from balms_det.evaluation.build import build_evaluator

__all__ = ["build_evaluator"]
