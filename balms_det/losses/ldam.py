"""LDAM (Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
NeurIPS 2019), with deferred re-weighting (DRW).

Symbols: see :mod:`balms_det.losses.core.base`; here L = K + 1, and
    n_c     training count of class c, at least 1
    m_c     margin of class c, in units of the cosine: in proportion to ``n_c ** (-1 / 4)``
    scale   factor of the cosine
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.class_balanced import effective_number_weights
from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.cosine import CosineClassifier
from balms_det.losses.core.families import SoftmaxFamily
from balms_det.losses.core.priors import class_counts


@BOX_LOSS_REGISTRY.register()
class LDAMLoss(SoftmaxFamily):
    """Cross-entropy after the label's logit is lowered by ``scale * m_y`` (equation 13).

    The classifier is a cosine one, whose logits carry the scale. Background has no margin: it is no
    class of the tail, and margins fall to nothing with the count. From iteration ``drw_start`` on
    RoIs weigh by the effective number of samples of their label, background by 1. State:
    ``iterations``, the number of batches so far.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        max_m: the largest margin, that of the class with the fewest examples.
        scale: factor of the cosine, "s" of the authors' code.
        drw_start: training iteration from which re-weighting is on; None for never. The paper
            takes the iteration of a decay of the learning rate, at 80 % of the training.
        beta: of the deferred weights, see :func:`effective_number_weights`.
        counts: "instance" or "image": which counts n are.

    Raises:
        ValueError: an unknown ``counts``, ``beta`` outside [0, 1), a ``scale`` that is not
            positive or a negative ``max_m``.
    """

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        max_m: float = 0.5,
        scale: float = 30.0,
        drw_start: int | None = None,
        beta: float = 0.9999,
        counts: str = "instance",
    ):
        super().__init__(num_classes, class_stats)
        if scale <= 0 or max_m < 0:
            raise ValueError(
                f"scale must be positive and max_m not negative, got {scale} and {max_m}"
            )
        self.scale = scale
        self.drw_start = drw_start
        count = class_counts(class_stats, counts)[0]
        margins = count.clamp(min=1) ** -0.25
        margins = F.pad(max_m * margins / margins.max(), (0, 1))
        weights = F.pad(effective_number_weights(count, beta), (0, 1), value=1.0)
        self.register_buffer("margins", margins, persistent=False)
        self.register_buffer("deferred_weights", weights, persistent=False)
        self.register_buffer("iterations", torch.zeros((), dtype=torch.long))

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        margin = self.scale * self.margins[gt_classes].to(logits.dtype).unsqueeze(1)
        lowered = logits.scatter_add(1, gt_classes.unsqueeze(1), -margin)
        loss = F.cross_entropy(lowered, gt_classes, reduction="none")
        if self.drw_start is not None:
            deferred = self.deferred_weights[gt_classes].to(logits.dtype)
            loss = loss * torch.where(self.iterations >= self.drw_start, deferred, 1.0)
        self.advance(logits, gt_classes)
        return loss

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        self.iterations += 1

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        return CosineClassifier.from_linear(linear, scale=self.scale)
