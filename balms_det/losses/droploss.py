"""DropLoss (Hsieh et al., "DropLoss for Long-Tail Instance Segmentation", AAAI 2021): Equalization
loss that also drops background's push on rare classes, as often as the batch has need of it.

Symbols: see :mod:`balms_det.losses.equalization`, and
    rho   share of rare classes among the labels of the batch's foreground RoIs
    u     uniform draws, one for every RoI and class
"""

import torch
from torch import Tensor

from balms_det.losses.base import BOX_LOSS_REGISTRY
from balms_det.losses.equalization import EQLLoss, equalization_weights
from balms_det.losses.sigmoid import binary_cross_entropy_per_roi


def drop_weights(gt_classes: Tensor, rare: Tensor, draws: Tensor) -> Tensor:
    """:func:`equalization_weights`, and 0 for rare classes on background where u > rho: (R, K).

    Args:
        gt_classes: (R,) in [0, K].
        rare: (K,), 1 for rare classes and 0 for the others; its dtype is the result's.
        draws: u, (R, K); foreground rows are not used.
    """
    num_classes = len(rare)
    foreground = gt_classes < num_classes
    objects = foreground.sum()
    rare_objects = (rare[gt_classes.clamp(max=num_classes - 1)] * foreground).sum()
    # Without objects nothing is dropped, as in the authors' code, where the share is 0 / 0.
    rho = torch.where(objects > 0, rare_objects / objects.clamp(min=1), 1.0)
    dropped = ~foreground.unsqueeze(1) & (rare > 0) & (draws > rho)
    return equalization_weights(gt_classes, rare).masked_fill(dropped, 0.0)


@BOX_LOSS_REGISTRY.register()
class DropLoss(EQLLoss):
    """Equalization loss whose background negatives of rare classes are kept with probability rho.

    Background RoIs are many and push rare classes down in every batch. A batch with few rare
    objects can pay little back, so it drops more (section 3.3). rho is that of the rank's own
    batch, as in the authors' code. The arguments are those of :class:`EQLLoss`.
    """

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        draws = self.draw_uniform(*logits.shape, like=logits)
        weights = drop_weights(gt_classes, self.rare.to(logits.dtype), draws)
        return binary_cross_entropy_per_roi(logits, gt_classes, weights)
