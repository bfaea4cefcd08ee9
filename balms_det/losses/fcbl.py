"""Foreground Classification Balance Loss of BACL (Qi et al., "Balanced Classification: A Unified
Framework for Long-Tailed Object Detection", IEEE TMM 2023): pairwise margins from the confusion of
the classifier in training.

Symbols: see :mod:`balms_det.losses.core.families` and :mod:`balms_det.losses.core.state`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.binary_terms import OfRows, binary_cross_entropy_per_roi
from balms_det.losses.core.families import SigmoidObjectnessFamily, is_foreground
from balms_det.losses.core.functional import rows_of_objects
from balms_det.losses.core.state import add_confusion_, class_sums

MIN_CONFUSION = 1e-3  # M below this is read as this: the logarithm needs a floor


@BOX_LOSS_REGISTRY.register()
class FCBLLoss(SigmoidObjectnessFamily):
    """Binary cross-entropy with pairwise margins (paper, section III-B).

    On a foreground RoI of class y, logit c is shifted by ``alpha * log(M[y, c] / M[c, y])``: a
    class that y is often taken for is pushed down harder, one that is taken for y less. M is the
    mean over all of training so far, *before* this batch. Only the foreground outputs that score
    at least as high as the label, or ``prob_thr``, and the background output count.

    State: ``cm_numerator`` (K, K) and ``num_gt`` (K,), float64, summed over ranks.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; counts are not read.
        alpha: strength of the margins.
        reweight: whether foreground outputs are selected by their scores at all. The authors do so
            from the second epoch on.
        prob_thr: score from which on a wrong class always counts.
        prior_prob: see :class:`SigmoidObjectnessFamily`.
    """

    needs_class_stats = False
    has_detached_factors = True

    def __init__(
        self,
        num_classes: int,
        class_stats: Any = None,
        *,
        alpha: float = 0.85,
        reweight: bool = True,
        prob_thr: float = 0.7,
        prior_prob: float = 0.001,
    ):
        super().__init__(num_classes, class_stats, prior_prob=prior_prob)
        self.alpha = alpha
        self.reweight = reweight
        self.prob_thr = prob_thr
        shape = (num_classes, num_classes)
        self.register_buffer("cm_numerator", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("num_gt", torch.zeros(num_classes, dtype=torch.float64))

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        margins = self._margins(logits.dtype)
        loss = binary_cross_entropy_per_roi(
            logits,
            gt_classes,
            factors=self._selection(logits.detach(), gt_classes) if self.reweight else None,
            shifts=lambda block, rows: margins.index_select(0, gt_classes[rows]),
        )
        self.advance(logits, gt_classes)
        return loss

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        logits, gt_classes = rows_of_objects(self.num_classes, gt_classes, logits)
        classes = F.softmax(logits[:, : self.num_classes], dim=1)
        add_confusion_(self.cm_numerator, classes, gt_classes)
        self.num_gt += class_sums(gt_classes, self.num_classes + 1)[0, :-1]

    def _margins(self, dtype: torch.dtype) -> Tensor:
        """The shift of every logit for every label, (K + 1, K + 1); 0 where background is."""
        confusion = self.cm_numerator.to(dtype) / self.num_gt.clamp(min=1).to(dtype).unsqueeze(1)
        confusion = confusion.clamp_(min=MIN_CONFUSION).log_().mul_(self.alpha)
        margins = confusion.new_zeros(self.num_logits, self.num_logits)
        torch.sub(confusion, confusion.t(), out=margins[:-1, :-1])
        return margins

    def _selection(self, logits: Tensor, gt_classes: Tensor) -> OfRows:
        """1 for the outputs that count and 0 for the others, of some rows; a label always does."""
        # Scores of a row are the sigmoids times one factor, so its logits can be compared instead.
        share = self.prob_thr / torch.sigmoid(-logits[:, -1:])
        lowest = torch.where(share < 1, torch.logit(share), torch.inf)
        lowest = torch.minimum(lowest, logits.gather(1, gt_classes.unsqueeze(1)))
        # On background RoIs all outputs count.
        foreground = is_foreground(gt_classes, self.num_classes).unsqueeze(1)
        lowest = torch.where(foreground, lowest, -torch.inf)

        def counts(block: Tensor, rows: slice) -> Tensor:
            # Into floats: a mask of booleans takes three times as long on a CPU.
            at_least = torch.ge(block, lowest[rows], out=torch.empty_like(block))
            at_least[:, -1] = 1.0
            return at_least

        return counts
