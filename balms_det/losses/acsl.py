"""Adaptive class suppression loss, ACSL (Wang et al., "Adaptive Class Suppression Loss for
Long-Tail Object Detection", CVPR 2021).

Symbols: see :mod:`balms_det.losses.core.base`; here L = K + 1, background last, all sigmoid.
"""

from typing import Any

import torch
from torch import Tensor

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.binary_terms import OfRows, binary_cross_entropy_per_roi
from balms_det.losses.core.families import BackgroundSigmoidFamily
from balms_det.losses.core.functional import lowest_keys, row_blocks
from balms_det.losses.core.priors import frequency_groups


@BOX_LOSS_REGISTRY.register()
class ACSLLoss(BackgroundSigmoidFamily):
    """Binary cross-entropy that pushes down only the classes that are mistaken for the label.

    A foreground RoI has its label and the outputs (background's too) with a score of at least
    ``score_thr`` (equation 5). A background RoI has the background output and, of the classes, a
    random part by frequency: rare classes on ``rare_fraction`` of the batch's background RoIs,
    and so on, rounded down.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        score_thr: score from which an output is suppressed.
        rare_fraction, common_fraction, frequent_fraction: shares of the background RoIs that push
            down rare, common and frequent classes.
        threshold_background: whether on background RoIs confident classes are suppressed too, as a
            comment in the authors' code says and the code itself does not.
        prior_prob: see :class:`balms_det.losses.core.families.BinaryFamily`.

    Raises:
        ValueError: a fraction outside [0, 1], or ``prior_prob`` outside (0, 1).
    """

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        score_thr: float = 0.7,
        rare_fraction: float = 0.01,
        common_fraction: float = 0.1,
        frequent_fraction: float = 1.0,
        threshold_background: bool = False,
        prior_prob: float = 0.001,
    ):
        super().__init__(num_classes, class_stats, prior_prob=prior_prob)
        fractions = (rare_fraction, common_fraction, frequent_fraction)
        if not all(0 <= fraction <= 1 for fraction in fractions):
            raise ValueError(f"fractions must lie in [0, 1], got {fractions}")
        self.score_thr = score_thr
        self.threshold_background = threshold_background
        fractions = torch.tensor(fractions, dtype=torch.float64)
        self.register_buffer("fractions", fractions, persistent=False)
        # What a draw for a group, and being background, pushes down: (4, K + 1) of 0 and 1.
        groups = torch.arange(3).unsqueeze(1) == frequency_groups(class_stats)
        pushes = torch.block_diag(groups.double(), torch.ones(1, 1, dtype=torch.float64))
        self.register_buffer("pushes", pushes, persistent=False)

    def suppressed(self, logits: Tensor, gt_classes: Tensor, draws: Tensor) -> Tensor:
        """Which outputs have a loss, the label's included: (R, K + 1) boolean.

        Args:
            logits: (R, K + 1).
            gt_classes: (R,) in [0, K].
            draws: (R, 3) uniform, for rare, common and frequent classes; of the background RoIs
                those with the lowest are drawn.
        """
        factors = self._factors(logits.detach(), gt_classes, draws)
        suppressed = torch.cat([factors(logits.detach()[r], r) for r in row_blocks(logits)]) > 0
        return suppressed.scatter(1, gt_classes.unsqueeze(1), True)

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        draws = self.draw_uniform(len(logits), len(self.fractions), like=logits)
        factors = self._factors(logits.detach(), gt_classes, draws)
        return binary_cross_entropy_per_roi(logits, gt_classes, factors)

    def _factors(self, logits: Tensor, gt_classes: Tensor, draws: Tensor) -> OfRows:
        """1 for the outputs that :meth:`suppressed` says, 0 for others; labels' are not meant."""
        background = (gt_classes == self.num_classes).unsqueeze(1)
        wanted = (background.sum().double() * self.fractions).floor()
        drawn = lowest_keys(draws, background.expand_as(draws), wanted)
        drawn = torch.cat([drawn, background], dim=1).to(logits.dtype)
        pushes = self.pushes.to(logits.dtype)
        # The score from which an output counts; 2 is one that none has.
        lowest = logits.new_full((), self.score_thr)
        if not self.threshold_background:
            lowest = torch.where(background, 2.0, lowest)
        lowest = lowest.expand_as(background).to(logits.dtype)

        def factors(block: Tensor, rows: slice) -> Tensor:
            confident = block.sigmoid().ge_(lowest[rows])
            # A class is of one group, so the product has 0 and 1 alone.
            return torch.maximum(confident, drawn[rows] @ pushes, out=confident)

        return factors
