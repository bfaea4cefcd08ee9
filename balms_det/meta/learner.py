"""The contract of a meta learner: what is learned about the classes, and how RoIs feel it.

Symbols and shapes
    K        foreground classes; label ``K`` is background
    R        RoIs of a batch, over all images and all ranks
    theta    (K,) the learned parameters, one a class
    omega    (R,) factors of the RoIs' losses; background has 1

With omega all 1 the classifier trains as without a learner.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from balms_det.losses.keywords import check_keywords

META_LEARNER_REGISTRY = Registry("META_LEARNER")
META_LEARNER_REGISTRY.__doc__ = "Meta learners by class name (see :class:`MetaLearner`)."


class MetaLearner(nn.Module, ABC):
    """Learns one number in (0, 1) a class, ``sigmoid(theta_c)``, and turns it into RoI factors.

    Args:
        num_classes: K.

    Raises:
        ValueError: K below 1.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.theta = nn.Parameter(torch.zeros(num_classes))

    def rates(self) -> Tensor:
        """(K,) ``sigmoid(theta)``: the class weights or sampling rates, without graph."""
        return self.theta.detach().sigmoid()

    @abstractmethod
    def forward(self, gt_classes: Tensor) -> Tensor:
        """omega, (R,), differentiable by ``theta``.

        Args:
            gt_classes: (R,) labels in [0, K] of the whole batch, all ranks joined, in the same
                order on every rank.
        """

    def after_update(self, gt_classes: Tensor, omega: Tensor) -> Tensor:
        """The factors of the real step, (R,), once ``theta`` has moved; by default the same."""
        return omega


def build_meta_learner(name: str, num_classes: int, **kwargs: Any) -> MetaLearner:
    """Build a registered meta learner.

    Raises:
        ValueError: unknown name.
        TypeError: a keyword that the learner does not take, or a value of another kind.
    """
    if name not in META_LEARNER_REGISTRY:
        known = ", ".join(sorted(key for key, _ in META_LEARNER_REGISTRY))
        raise ValueError(f"Unknown meta learner {name!r} (META.NAME). Registered: {known}")
    learner = META_LEARNER_REGISTRY.get(name)
    check_keywords(learner, kwargs)
    return learner(num_classes, **kwargs)
