"""Circle loss (Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization",
CVPR 2020), its class-level form.

Symbols: see :mod:`balms_det.losses.normalized_softmax`, and
    m      relaxation: s_y is to exceed 1 - m and all others are to stay below m
    gamma  scale
"""

from typing import Any

from torch import Tensor

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.functional import transformed_cross_entropy
from balms_det.losses.normalized_softmax import CosineSoftmaxFamily


@BOX_LOSS_REGISTRY.register()
class CircleLoss(CosineSoftmaxFamily):
    """Cross-entropy of cosines that are each weighted by how far they are from their aim (eq. 6).

    The label's logit is ``gamma [1 + m - s_y]+ (s_y - (1 - m))``, all others'
    ``gamma [s_c + m]+ (s_c - m)``; the brackets are constants to the gradient. Background is one
    more class. Scores are the softmax of ``gamma s``.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; counts are not read.
        margin: m; 0.25 is the paper's for classes.
        gamma: the paper has 256 for tens of thousands of classes; 64 suits few.

    Raises:
        ValueError: ``margin`` outside (0, 1), or ``gamma`` not positive.
    """

    needs_class_stats = False
    has_detached_factors = True

    def __init__(
        self,
        num_classes: int,
        class_stats: Any = None,
        *,
        margin: float = 0.25,
        gamma: float = 256.0,
    ):
        super().__init__(num_classes, class_stats, scale=gamma)
        if not 0 < margin < 1:
            raise ValueError(f"margin must lie between 0 and 1, got {margin}")
        self.margin = margin

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return transformed_cross_entropy(logits, gt_classes, self._weigh)

    def _weigh(self, logits: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted logits of some rows, (N, L), and the brackets that weigh them, (N, L)."""
        label, scale, m = gt_classes.unsqueeze(1), self.scale, self.margin
        own = logits.gather(1, label)
        brackets = (logits + scale * m).clamp_(min=0).div_(scale)
        own_bracket = (scale * (1 + m) - own).clamp_(min=0).div_(scale)
        weighted = (logits - scale * m).mul_(brackets)
        weighted.scatter_(1, label, (own - scale * (1 - m)).mul_(own_bracket))
        return weighted, brackets.scatter_(1, label, own_bracket)
