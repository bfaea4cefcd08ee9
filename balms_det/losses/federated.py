"""Federated loss (Zhou et al., "Probabilistic two-stage detection", arXiv 2103.07461, section 5.4):
in each batch only some of the absent classes are pushed down.

Symbols: see :mod:`balms_det.losses.core.base`; here L = K + 1, as in Detectron2's own federated
loss, whose last output, background, is not trained.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.binary_terms import binary_cross_entropy_per_roi
from balms_det.losses.core.families import BackgroundSigmoidFamily
from balms_det.losses.core.functional import lowest_keys
from balms_det.losses.core.priors import class_counts


@BOX_LOSS_REGISTRY.register()
class FederatedLoss(BackgroundSigmoidFamily):
    """Binary cross-entropy on the labels of the batch and on negative classes drawn at random.

    Classes are drawn without replacement in proportion to ``image_count ** freq_weight_power``
    until there are ``fed_loss_num_classes``. As in Detectron2, background takes one of these
    places where the batch has a background RoI, each rank draws its own classes, and the plain
    loss has all K classes.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        fed_loss_num_classes: how many classes the loss has at least.
        freq_weight_power: exponent of the counts.
        prior_prob: see :class:`balms_det.losses.core.families.BinaryFamily`; 0.01 in Detectron2.

    Raises:
        ValueError: ``prior_prob`` outside (0, 1), or ``fed_loss_num_classes`` below 1.
    """

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        fed_loss_num_classes: int = 50,
        freq_weight_power: float = 0.5,
        prior_prob: float = 0.01,
    ):
        super().__init__(num_classes, class_stats, prior_prob=prior_prob)
        if fed_loss_num_classes < 1:
            raise ValueError(f"fed_loss_num_classes must be 1 or more, got {fed_loss_num_classes}")
        self.fed_loss_num_classes = fed_loss_num_classes
        weights = class_counts(class_stats, "image")[0] ** freq_weight_power
        self.register_buffer("draw_weights", weights, persistent=False)

    def kept_classes(self, gt_classes: Tensor, draws: Tensor) -> Tensor:
        """The classes that the batch's loss has, (K,) boolean.

        Args:
            gt_classes: (R,) in [0, K].
            draws: (K,) uniform in [0, 1).
        """
        present = torch.zeros(self.num_classes + 1, dtype=torch.bool, device=gt_classes.device)
        present = present.index_fill(0, gt_classes, True)
        free = self.fed_loss_num_classes - present.sum()
        candidates = ~present[:-1] & (self.draw_weights > 0)
        keys = -torch.log1p(-draws.double()) / self.draw_weights.clamp(min=1e-12)
        return present[:-1] | lowest_keys(keys, candidates, free)

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        draws = self.draw_uniform(self.num_classes, like=self.draw_weights)
        kept = self.kept_classes(gt_classes, draws)
        return self._of_classes(logits, gt_classes, kept)

    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return self._of_classes(logits, gt_classes, torch.ones_like(self.draw_weights))

    def _of_classes(self, logits: Tensor, gt_classes: Tensor, kept: Tensor) -> Tensor:
        factors = F.pad(kept.to(logits.dtype), (0, 1))  # nothing of the background output
        return binary_cross_entropy_per_roi(logits, gt_classes, factors, factors[gt_classes])

    def accuracy_scores(self, logits: Tensor) -> Tensor:
        # The untrained output says nothing: background wins where every class is below one half.
        return F.pad(logits[:, :-1], (0, 1))
