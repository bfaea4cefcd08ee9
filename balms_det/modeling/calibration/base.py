"""The contract of a calibration: better scores from a classifier that is already trained.

Symbols and shapes
    K         foreground classes
    R         RoIs
    L         columns of the classifier's output; the first K are the classes
    z         logits, (R, L)
    family    "softmax": L = K + 1, background last, scores are the softmax of z;
              "sigmoid": K independent classifiers, the score of class c is sigmoid(z_c). That is
              the softmax of (z_c, 0), each class against a background of its own whose logit is 0:
              where a paper writes a softmax form only, this is how its sigmoid form is derived.
    strength  how much is calibrated; 0 changes nothing, not one bit

A calibration acts at test time only. Most are an affine map of the logits,
``z_c -> scale_c * z_c + offset_c``; they can also be written into the classifier's weights
(:meth:`Calibration.bake`), after which the checkpoint needs no balms_det.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.core.base import full_precision
from balms_det.utils.registry import check_keywords

CALIBRATION_REGISTRY = Registry("CALIBRATION")
CALIBRATION_REGISTRY.__doc__ = "Calibrations by class name (see :class:`Calibration`)."

ToScores = Callable[[Tensor], Tensor]
FAMILIES = ("softmax", "sigmoid")


@dataclass(frozen=True)
class Head:
    """The classification head that is calibrated.

    Attributes:
        num_classes: K.
        family: "softmax" or "sigmoid".
        stage: index of the head in a cascade, 0 elsewhere.
    """

    num_classes: int
    family: str = "softmax"
    stage: int = 0

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {FAMILIES}, got {self.family!r}")


class Calibration(nn.Module, ABC):
    """A calibration of one head; its constants are non-persistent buffers.

    Args:
        head: what is calibrated.
        strength: how much; 0 for not at all.

    Raises:
        ValueError: class statistics that are missing though needed, or not of length K.
    """

    #: The keyword that is the strength (see :meth:`arguments_for`).
    strength_argument: ClassVar[str] = "strength"
    #: Strengths that an automatic choice tries; 0 is tried always.
    strengths: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75, 1.0, 1.25)
    #: Whether the constructor reads ``class_stats``.
    needs_class_stats: ClassVar[bool] = False
    #: Names of the tables that its statistics must hold (see ``statistics.py``).
    needs_statistics: ClassVar[tuple[str, ...]] = ()

    def __init__(self, head: Head, class_stats: Any, strength: float):
        super().__init__()
        self.head = head
        self.is_identity = strength == 0
        if self.needs_class_stats:
            _check_stats(type(self).__name__, class_stats, head.num_classes)

    @classmethod
    def arguments_for(cls, strength: float) -> dict[str, Any]:
        """The keyword arguments that mean this strength."""
        return {cls.strength_argument: strength}

    @abstractmethod
    def scale_and_offset(self, classifier: nn.Module | None) -> tuple[Tensor, Tensor]:
        """The affine map of the class logits: scale and offset, (K,) each.

        Args:
            classifier: the layer that made the logits; only what depends on its weights reads it.

        Raises:
            ValueError: the calibration is not affine with these arguments.
        """

    def forward(
        self, logits: Tensor, to_scores: ToScores, classifier: nn.Module | None = None
    ) -> Tensor:
        """Calibrated scores, (R, K + 1).

        Args:
            logits: (R, L).
            to_scores: the head's own map from logits to scores.
            classifier: the layer that made the logits.

        Raises:
            ValueError: fewer columns than classes, or, in a softmax head, not K + 1.
        """
        if self.is_identity:
            return to_scores(logits)
        self._check(logits)
        return self.calibrate(full_precision(logits), to_scores, classifier)

    def calibrate(
        self, logits: Tensor, to_scores: ToScores, classifier: nn.Module | None
    ) -> Tensor:
        """:meth:`forward` for float32 or float64 logits and a strength that is not 0."""
        scale, offset = self.affine(classifier, logits.shape[1])
        return to_scores(logits * scale.to(logits.dtype) + offset.to(logits.dtype))

    def affine(self, classifier: nn.Module | None, num_logits: int) -> tuple[Tensor, Tensor]:
        """:meth:`scale_and_offset` for all L columns, (L,) each: the others stay as they are."""
        scale, offset = self.scale_and_offset(classifier)
        others = (0, num_logits - self.head.num_classes)
        return F.pad(scale, others, value=1.0), F.pad(offset, others)

    @torch.no_grad()
    def bake(self, classifier: nn.Linear) -> None:
        """Write the calibration into the classifier, in place; plain scores are then calibrated.

        Raises:
            ValueError: the calibration is not affine, or ``classifier`` is no Linear with bias.
        """
        if self.is_identity:
            return
        check_linear(type(self).__name__, classifier)
        if classifier.bias is None:
            raise ValueError(f"{type(self).__name__} cannot be baked into a Linear without bias")
        scale, offset = self.affine(classifier, classifier.out_features)
        weight, bias = classifier.weight.double(), classifier.bias.double()
        classifier.weight.copy_(weight * scale.to(weight)[:, None])
        classifier.bias.copy_(bias * scale.to(bias) + offset.to(bias))

    def _check(self, logits: Tensor) -> None:
        classes = self.head.num_classes
        softmax = self.head.family == "softmax"
        columns = logits.shape[1]
        if columns < classes or (softmax and columns != classes + 1):
            raise ValueError(
                f"{type(self).__name__} for {classes} classes of a {self.head.family} head got "
                f"logits of shape {tuple(logits.shape)}"
            )


def build_calibration(name: str, head: Head, class_stats: Any = None, **kwargs: Any) -> Calibration:
    """Build a registered calibration.

    Args:
        name: a name in :data:`CALIBRATION_REGISTRY`.
        head: what is calibrated.
        class_stats: training counts, as for :class:`balms_det.losses.BoxLoss`.
        kwargs: the calibration's own keyword arguments.

    Raises:
        ValueError: unknown name, or class statistics of another number of classes.
        TypeError: a keyword that the calibration does not take, or a value of another kind.
    """
    calibration = calibration_class(name)
    check_keywords(calibration, kwargs)
    return calibration(head, class_stats, **kwargs)


def calibration_class(name: str) -> type[Calibration]:
    """The registered class, or ValueError with the names there are."""
    if name not in CALIBRATION_REGISTRY:
        known = ", ".join(sorted(key for key, _ in CALIBRATION_REGISTRY))
        raise ValueError(f"Unknown calibration {name!r}. Registered: {known}")
    return CALIBRATION_REGISTRY.get(name)


def check_linear(name: str, classifier: nn.Module | None) -> None:
    """Raise ValueError unless ``classifier`` is a Linear layer."""
    if not isinstance(classifier, nn.Linear):
        raise ValueError(
            f"{name} needs the Linear layer that makes the logits, got {type(classifier).__name__};"
            " a cosine classifier is normalised already"
        )


def _check_stats(name: str, class_stats: Any, num_classes: int) -> None:
    if class_stats is None:
        raise ValueError(f"{name} needs class_stats: the counts of the training set")
    for field in ("image_count", "instance_count"):
        count = len(getattr(class_stats, field))
        if count != num_classes:
            raise ValueError(
                f"{name}: class_stats.{field} has {count} classes but the head has {num_classes}. "
                "Give it the counts of the training set of this model"
            )
