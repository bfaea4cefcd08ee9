"""GOL as its authors train it: the Gumbel activation with the weights of EQL or DropLoss.

Symbols: see :mod:`balms_det.losses.gumbel`, :mod:`balms_det.losses.equalization` and
:mod:`balms_det.losses.droploss`; here L = K.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.base import BOX_LOSS_REGISTRY
from balms_det.losses.droploss import drop_weights
from balms_det.losses.equalization import EQLLoss, equalization_weights
from balms_det.losses.gumbel import (
    check_clamp,
    gumbel_scores,
    gumbel_terms,
    reset_gumbel_classifier,
)


@BOX_LOSS_REGISTRY.register()
class GumbelEQLLoss(EQLLoss):
    """:class:`EQLLoss` of the Gumbel activation, without a background output.

    The sum of a batch is not cut off, as opposed to :class:`GumbelLoss`.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        lambda_: image frequency below which a class is rare; the authors' for LVIS v1.
        clamp_min, clamp_max, exact_gradient, weight_std, bias: see :class:`GumbelLoss`.

    Raises:
        ValueError: ``clamp_min`` is not below ``clamp_max``.
    """

    has_detached_factors = True

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        lambda_: float = 1.1e-3,
        clamp_min: float = -4.0,
        clamp_max: float = 10.0,
        exact_gradient: bool = False,
        weight_std: float = 0.001,
        bias: float = -2.0,
    ):
        super().__init__(num_classes, class_stats, lambda_=lambda_)
        check_clamp(clamp_min, clamp_max)
        self.clamp_min, self.clamp_max = clamp_min, clamp_max
        self.exact_gradient = exact_gradient
        self.weight_std, self.bias = weight_std, bias

    def weights(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """The factor of every term, (R, K)."""
        return equalization_weights(gt_classes, self.rare.to(logits.dtype))

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        weights = self.weights(logits.detach(), gt_classes)
        return (self._terms(logits, gt_classes) * weights).sum(dim=1)

    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return self._terms(logits, gt_classes).sum(dim=1)

    def scores(self, logits: Tensor) -> Tensor:
        return F.pad(gumbel_scores(logits), (0, 1))

    def accuracy_scores(self, logits: Tensor) -> Tensor:
        # Background wins where every class scores below one half.
        return F.pad(gumbel_scores(logits), (0, 1), value=0.5)

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        return reset_gumbel_classifier(linear, self.weight_std, self.bias)

    def _terms(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        clamp = self.clamp_min, self.clamp_max
        return gumbel_terms(logits, gt_classes, *clamp, self.exact_gradient)


@BOX_LOSS_REGISTRY.register()
class GumbelDropLoss(GumbelEQLLoss):
    """:class:`DropLoss` of the Gumbel activation: the loss of GOL's LVIS v1 results.

    Its arguments are those of :class:`GumbelEQLLoss`.
    """

    def weights(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        draws = self.draw_uniform(*logits.shape, like=logits)
        return drop_weights(gt_classes, self.rare.to(logits.dtype), draws)
