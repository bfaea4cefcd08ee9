"""DropLoss (Hsieh et al., "DropLoss for Long-Tail Instance Segmentation", AAAI 2021): Equalization
loss that also drops background's push on rare classes, as often as the batch has need of it.

Symbols: see :mod:`balms_det.losses.eql`, and
    rho   share of rare classes among the labels of the batch's foreground RoIs
    u     uniform draws, one for every RoI and class
"""

import torch
from torch import Tensor

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.binary_terms import OfRows
from balms_det.losses.core.functional import coarse_uniform
from balms_det.losses.eql import EQLLoss


def drop_factors(gt_classes: Tensor, rare: Tensor, draws: Tensor) -> OfRows:
    """0 for a rare class on a foreground RoI, and on background where u > rho; else 1.

    Of some rows; those of labels are not meant.

    Args:
        gt_classes: (R,) in [0, K].
        rare: (K,), 1 for rare classes and 0 for the others; its dtype is the result's.
        draws: u, (R, K), in [0, 1); foreground rows are not used.
    """
    foreground = gt_classes < len(rare)
    objects = foreground.sum()
    rare_objects = (rare[gt_classes.clamp(max=len(rare) - 1)] * foreground).sum()
    # Without objects nothing is dropped, as in the authors' code, where the share is 0 / 0.
    rho = torch.where(objects > 0, rare_objects / objects.clamp(min=1), 1.0)
    # The lowest draw that drops: any on foreground, and none of a class that is not rare.
    of_roi = torch.where(foreground, -1.0, rho).unsqueeze(1).to(draws.dtype)
    of_class = 2 * (1 - rare).to(draws.dtype)

    def factors(logits: Tensor, rows: slice) -> Tensor:
        limit = of_roi[rows] + of_class
        # Into floats: a mask of booleans takes three times as long on a CPU.
        return torch.ge(limit, draws[rows], out=limit)

    return factors


class DroppingFamily(EQLLoss):
    """Equalization losses whose background negatives of rare classes are dropped at random."""

    def factors(self, logits: Tensor, gt_classes: Tensor) -> OfRows:
        draws = self.draw_uniform(*logits.shape, like=logits)
        return drop_factors(gt_classes, self.rare.to(logits.dtype), draws)

    def draw_uniform(self, *shape: int, like: Tensor) -> Tensor:
        # One for every RoI and class: by far the most that any loss draws.
        return coarse_uniform(shape, like)


@BOX_LOSS_REGISTRY.register()
class DropLoss(DroppingFamily):
    """Equalization loss whose background negatives of rare classes are kept with probability rho.

    Background RoIs are many and push rare classes down in every batch. A batch with few rare
    objects can pay little back, so it drops more (section 3.3). rho is that of the rank's own
    batch, as in the authors' code. The arguments are those of :class:`EQLLoss`.
    """
