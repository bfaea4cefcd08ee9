"""Ways to train the classifier of a trained detector anew, by name.

Symbols: ``w_c``, ``b_c`` weight and bias of class c in the classifier of stage 1. All of them are
decoupled training of Kang et al., "Decoupling Representation and Classifier for Long-Tailed
Recognition", ICLR 2020; which loss they train with is the config's choice.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor, nn

from balms_det.engine.partial_state import copy_into
from balms_det.modeling import BoxPredictor
from balms_det.modeling.calibration import build_calibration, head_of

METHOD_REGISTRY = Registry("CLASSIFIER_METHOD")
METHOD_REGISTRY.__doc__ = "Ways to train the classifier, by class name (see :class:`Method`)."


class Method:
    """What is done to the box predictors before and after training; by default nothing."""

    #: The sampler where the config names none; empty for the detector's batches.
    sampler = ""
    #: Whether there is anything to train.
    trains = True
    #: Whether a meta learner can look ahead of its steps.
    takes_meta = True

    def prepare(self, predictor: BoxPredictor, fresh: dict[str, Tensor]) -> None:
        """Change a predictor, in place, before it is trained.

        Args:
            predictor: with the classifier of stage 1.
            fresh: state dict of its classifier as it was before weights were loaded.
        """

    def finish(self, predictor: BoxPredictor, stage: int) -> None:
        """Leave a plain classifier in a trained predictor; ``stage`` is 0 outside a cascade."""


@METHOD_REGISTRY.register()
class Plain(Method):
    """The classifier of stage 1 is trained on."""


@METHOD_REGISTRY.register()
class CRT(Method):
    """Classifier re-training (section 4.1): from fresh weights, on class-balanced batches."""

    sampler = "ClassBalancedSampler"

    def prepare(self, predictor: BoxPredictor, fresh: dict[str, Tensor]) -> None:
        copy_into(predictor.cls_score, fresh)


class ScaledClassifier(nn.Module):
    """``scale_c * (w_c x + b_c)`` with w and b frozen, for the columns of the classes alone."""

    def __init__(self, linear: nn.Linear, columns: Tensor):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.scale = nn.Parameter(linear.weight.new_ones(len(columns)))
        self.register_buffer("columns", columns.to(linear.weight.device), persistent=False)

    def full_scale(self) -> Tensor:
        """(L,) scales, 1 for outputs that are no class."""
        ones = self.scale.new_ones(self.linear.out_features)
        return ones.index_copy(0, self.columns, self.scale)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features) * self.full_scale()

    @torch.no_grad()
    def baked(self) -> nn.Linear:
        """The Linear of the same logits; the frozen one, changed in place."""
        scale = self.full_scale()
        self.linear.weight.mul_(scale.unsqueeze(1))
        if self.linear.bias is not None:
            self.linear.bias.mul_(scale)
        return self.linear.requires_grad_(True)


@METHOD_REGISTRY.register()
class LWS(Method):
    """Learnable weight scaling (section 4.4): a scale a class is learned, on class-balanced
    batches; ``w_c`` and ``b_c`` keep their directions. Background keeps its scale of 1.

    Raises:
        ValueError: from ``prepare``, a classifier that normalises its weights, where a scale of
            them is lost.
    """

    sampler = "ClassBalancedSampler"
    takes_meta = False

    def prepare(self, predictor: BoxPredictor, fresh: dict[str, Tensor]) -> None:
        linear = predictor.cls_score
        if type(linear) is not nn.Linear:
            raise ValueError(
                f"LWS scales the weights of a Linear, and {type(predictor.cls_loss).__name__} has "
                f"a {type(linear).__name__}: choose a loss without one"
            )
        predictor.cls_score = ScaledClassifier(linear, predictor.cls_loss.class_columns)

    def finish(self, predictor: BoxPredictor, stage: int) -> None:
        predictor.cls_score = predictor.cls_score.baked()


@METHOD_REGISTRY.register()
class TauNorm(Method):
    """Tau-normalised weights (section 4.3), without training: the calibration
    ``TauNormalization`` written into the classifier.

    Args:
        tau: strength; 1 makes all weights unit vectors.
    """

    trains = False
    takes_meta = False

    def __init__(self, *, tau: float = 1.0):
        self.tau = tau

    def finish(self, predictor: BoxPredictor, stage: int) -> None:
        calibration = build_calibration("TauNormalization", head_of(predictor, stage), tau=self.tau)
        calibration.to(predictor.cls_score.weight.device).bake(predictor.cls_score)


def build_method(cfg: CfgNode) -> Method:
    """The method that the node ``CLASSIFIER`` describes.

    Raises:
        ValueError: an unknown name, or one that cannot be combined with the node ``META``.
        TypeError: an argument that it does not take.
    """
    name, given = cfg.CLASSIFIER.METHOD, {k.lower(): v for k, v in cfg.CLASSIFIER.ARGS.items()}
    if name not in METHOD_REGISTRY:
        known = ", ".join(sorted(key for key, _ in METHOD_REGISTRY))
        raise ValueError(f"Unknown method {name!r} (CLASSIFIER.METHOD). Registered: {known}")
    kind: Any = METHOD_REGISTRY.get(name)
    own = inspect.signature(kind).parameters if kind.__init__ is not object.__init__ else {}
    wrong = sorted(set(given) - set(own))
    if wrong:
        raise TypeError(f"{name} takes no {', '.join(wrong)}. It takes: {', '.join(own) or 'none'}")
    if cfg.META.NAME and not kind.takes_meta:
        raise ValueError(
            f"{name} does not go with a meta learner ({cfg.META.NAME}), which looks ahead of steps "
            "of the classifier's own weights: leave META.NAME empty"
        )
    return kind(**given)
