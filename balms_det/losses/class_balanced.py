"""Class-balanced loss (Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR
2019): any loss, weighted by the label's effective number of samples.

Symbols: see :mod:`balms_det.losses.core.base`, and
    n_c    training count of class c
    beta   share of an example that the next one of its class repeats; 0 gives equal weights, and
           towards 1 they become ``1 / n_c``
    w_c    weight of RoIs of class c, ``(1 - beta) / (1 - beta ** n_c)`` up to a constant factor
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY, BoxLoss, build_box_loss
from balms_det.losses.core.priors import class_counts


def effective_number_weights(count: Tensor, beta: float) -> Tensor:
    """w_c, (K,) float64, with mean 1 over the classes that have examples (section 3.3).

    Args:
        count: (K,) training counts; a class without any weighs like one with a single example.
        beta: in [0, 1).

    Raises:
        ValueError: ``beta`` outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must lie in [0, 1), got {beta}")
    count = count.to(torch.float64)
    weights = (1 - beta) / (1 - beta ** count.clamp(min=1))
    seen = (count > 0).double()
    return weights * seen.sum().clamp(min=1) / (weights * seen).sum().clamp(min=1e-12)


@BOX_LOSS_REGISTRY.register()
class ClassBalancedLoss(BoxLoss):
    """Another registered loss whose RoIs weigh w_y (equation 8); background RoIs weigh 1.

    The paper's three forms are ``base_loss`` "SoftmaxLoss", "SigmoidLoss" and "FocalLoss". Logits,
    scores, plain loss, classifier and running state are those of the base loss.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        base_loss: name of a registered loss.
        base_args: its keyword arguments, in upper or lower case.
        beta: 0.9999 is the paper's on its large datasets, 0.9 to 0.999 were tried as well.
        counts: "instance" or "image": which counts n are.

    Raises:
        ValueError: ``beta`` outside [0, 1), an unknown ``counts`` or ``base_loss``.
        TypeError: an argument that the base loss does not take.
    """

    equal_counts_are_plain = True

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        base_loss: str = "SoftmaxLoss",
        base_args: dict[str, Any] | None = None,
        beta: float = 0.9999,
        counts: str = "instance",
    ):
        super().__init__(num_classes, class_stats)
        arguments = {key.lower(): value for key, value in (base_args or {}).items()}
        self.base = build_box_loss(base_loss, num_classes, class_stats, **arguments)
        weights = effective_number_weights(class_counts(class_stats, counts)[0], beta)
        self.register_buffer("weights", F.pad(weights, (0, 1), value=1.0), persistent=False)

    @property
    def num_logits(self) -> int:
        return self.base.num_logits

    @property
    def class_columns(self) -> Tensor:
        return self.base.class_columns

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return self.base.per_roi(logits, gt_classes) * self.weights[gt_classes].to(logits.dtype)

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        self.base.move_state(logits, gt_classes)  # on empty batches: per_roi above has moved it

    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return self.base.plain_per_roi(logits, gt_classes)

    def scores(self, logits: Tensor) -> Tensor:
        return self.base.scores(logits)

    def accuracy_scores(self, logits: Tensor) -> Tensor:
        return self.base.accuracy_scores(logits)

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        return self.base.reset_classifier(linear)
