"""Evaluation: the evaluators that training uses and the tables that come out of them."""

from balms_det.evaluation.compare import Comparison, compare_results
from balms_det.evaluation.evaluator import LongTailEvaluator, build_evaluator
from balms_det.evaluation.lvis import evaluate_lvis
from balms_det.evaluation.metrics import CategoryResult, LVISResult

__all__ = [
    "CategoryResult",
    "Comparison",
    "LVISResult",
    "LongTailEvaluator",
    "build_evaluator",
    "compare_results",
    "evaluate_lvis",
]
