"""Logit adjustment (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021).

Symbols: see :mod:`balms_det.losses.balanced_softmax`, and
    pi_c   share of class c among the training examples
"""

from typing import Any

from balms_det.losses.balanced_softmax import BalancedSoftmaxLoss
from balms_det.losses.core.base import BOX_LOSS_REGISTRY


@BOX_LOSS_REGISTRY.register()
class LogitAdjustedLoss(BalancedSoftmaxLoss):
    """Cross-entropy of ``z + tau * log(pi)`` (equation 10); plain scores.

    The formula is that of Balanced Softmax, found independently. The paper's examples are what is
    classified, so here pi counts instances. The paper's other form, which adjusts at test time
    what was trained with cross-entropy, is a calibration of scores and no loss.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        counts: "instance" or "image": what pi is a share of.
        tau: strength of the adjustment; 1 is consistent for the balanced error.
        background, background_ratio: see :class:`BalancedSoftmaxLoss`. With "class" background has
            its prior as the paper's classes have: ``pi`` of it is ratio / (1 + ratio).

    Raises:
        ValueError: an unknown ``counts`` or ``background``, or a ratio that is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        counts: str = "instance",
        tau: float = 1.0,
        background: str = "keep",
        background_ratio: float = 3.0,
    ):
        super().__init__(
            num_classes,
            class_stats,
            counts=counts,
            tau=tau,
            background=background,
            background_ratio=background_ratio,
        )
