"""GOL as its authors train it: the Gumbel activation with the weights of EQL or DropLoss.

Symbols: see :mod:`balms_det.losses.gumbel`, :mod:`balms_det.losses.equalization` and
:mod:`balms_det.losses.droploss`; here L = K.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.base import BOX_LOSS_REGISTRY
from balms_det.losses.binary_terms import OutputTerm, binary_terms_per_roi
from balms_det.losses.droploss import DroppingFamily
from balms_det.losses.equalization import EQLLoss
from balms_det.losses.gumbel import GumbelActivation, gumbel_scores, reset_gumbel_classifier


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
        self.activation = GumbelActivation(clamp_min, clamp_max, exact_gradient)
        self.weight_std, self.bias = weight_std, bias

    def term(self) -> OutputTerm:
        return self.activation.term()

    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return binary_terms_per_roi(logits, gt_classes, self.term())

    def scores(self, logits: Tensor) -> Tensor:
        return F.pad(gumbel_scores(logits), (0, 1))

    def accuracy_scores(self, logits: Tensor) -> Tensor:
        # Background wins where every class scores below one half.
        return F.pad(gumbel_scores(logits), (0, 1), value=0.5)

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        return reset_gumbel_classifier(linear, self.weight_std, self.bias)


@BOX_LOSS_REGISTRY.register()
class GumbelDropLoss(DroppingFamily, GumbelEQLLoss):
    """:class:`DropLoss` of the Gumbel activation: the loss of GOL's LVIS v1 results.

    Its arguments are those of :class:`GumbelEQLLoss`.
    """
