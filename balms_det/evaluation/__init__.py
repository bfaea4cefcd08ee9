"""Evaluation: LVIS's 13 numbers from result files, comparisons, and evaluators for training.

All but the evaluators (:mod:`balms_det.evaluation.evaluator`) works without Detectron2 and torch.
"""

from typing import Any

from balms_det.evaluation.compare import Comparison, compare_results
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

_NEED_DETECTRON2 = {"LongTailEvaluator", "build_evaluator"}


def __getattr__(name: str) -> Any:
    if name not in _NEED_DETECTRON2:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from balms_det.evaluation import evaluator

    return getattr(evaluator, name)
