"""Loss on mean classification scores (Feng et al., "Exploring Classification Equilibrium in
Long-Tailed Object Detection", ICCV 2021, LOCE): equilibrium loss and feature memory.

Symbols: see :mod:`balms_det.losses.core.context`, and
    m_c    running mean of the score that objects of class c have for c
    Q      features that are kept a class
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.context import ContextLoss
from balms_det.losses.core.families import SoftmaxFamily
from balms_det.losses.core.feature_memory import FeatureMemory, draw_classes, sizes_of_groups
from balms_det.losses.core.functional import shifted_cross_entropy
from balms_det.losses.core.state import class_sums

# exp(-69), far below any mean score of a training that works: keeps the logarithm finite.
MIN_SCORE = 1e-30


@BOX_LOSS_REGISTRY.register()
class LOCELoss(ContextLoss, SoftmaxFamily):
    """Equilibrium loss, cross-entropy of ``z_c + log m_c`` (sections 3.2 and 3.3); plain scores.

    m moves *before* the loss: each object counts with the mean score of its RoIs, and a class with
    n objects in the batch has ``m <- alpha^n m + (1 - alpha^n) * their mean``. Background's m is
    ``bg_score`` at every update, whatever a loaded state says. The box predictor says which RoIs
    are of one object; without it each is its own.

    Memory-augmented feature sampling (section 3.4): rows of ``sampled_classes`` classes, drawn
    with probability proportional to 1 / m, with ``sampled_features`` features each, join every
    batch. The authors store feature maps of 16 shifted copies of every ground-truth box; here the
    features of the sampled foreground RoIs are stored as the classifier reads them, so the rows
    train the classifier alone, and classes that have none yet are not drawn.

    State: ``mean_score`` (K + 1,) float64, exact over ranks; the memory (:class:`FeatureMemory`)
    is made by ``reset_classifier``.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; counts are not read.
        alpha: share of m that is kept for each object.
        bg_score: m of background.
        init_score: m of every class at the start.
        queue_size: Q; 0 for no memory.
        sampled_classes, sampled_features: how many are drawn for a batch.

    Raises:
        ValueError: ``alpha`` outside [0, 1], a score outside (0, 1], or a negative ``queue_size``.
    """

    needs_class_stats = False
    has_detached_factors = True
    reads = ("object_ids",)

    def __init__(
        self,
        num_classes: int,
        class_stats: Any = None,
        *,
        alpha: float = 0.9,
        bg_score: float = 0.01,
        init_score: float = 0.01,
        queue_size: int = 80,
        sampled_classes: int = 8,
        sampled_features: int = 4,
    ):
        super().__init__(num_classes, class_stats)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
        if not (0 < bg_score <= 1 and 0 < init_score <= 1):
            raise ValueError(f"scores must lie in (0, 1], got {bg_score} and {init_score}")
        if queue_size < 0:
            raise ValueError(f"queue_size must not be negative, got {queue_size}")
        self.alpha = alpha
        self.bg_score = bg_score
        self.queue_size = queue_size
        self.sampled = sampled_classes, sampled_features
        start = torch.full((num_classes,), init_score, dtype=torch.float64)
        self.register_buffer("mean_score", F.pad(start, (0, 1), value=bg_score))
        self.memory: FeatureMemory | None = None

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        self.advance(logits, gt_classes)
        offsets = self.mean_score.clamp(min=MIN_SCORE).log().to(logits.dtype)
        return shifted_cross_entropy(logits, offsets, gt_classes)

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        score = F.softmax(logits, dim=1).gather(1, gt_classes.unsqueeze(1)).squeeze(1)
        share = 1 / sizes_of_groups(self._object_ids(gt_classes)).double()
        _, objects, scores = class_sums(gt_classes, self.num_classes + 1, share, share * score)
        kept = self.alpha**objects
        moved = kept * self.mean_score + (1 - kept) * scores / objects.clamp(min=1)
        self.mean_score[:-1] = moved[:-1]
        # Not only at the start: a checkpoint may bring the value that another run was given.
        self.mean_score[-1] = self.bg_score

    def extra_rows(self, features: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.queue_size == 0:
            return None
        if self.memory is None:
            raise RuntimeError("LOCELoss has no memory yet: reset_classifier makes it")
        self.memory.push(features, gt_classes)
        classes, count = self.sampled
        score = self.mean_score[:-1].masked_fill(self.memory.filled() == 0, torch.inf)
        picked = draw_classes(score, self.draw_uniform(classes, like=score))
        rows, labels = self.memory.draw(picked, self.draw_uniform(classes, count, like=score))
        # All rows that a class has in this draw are one object, which no RoI is of.
        ids = torch.cat([self._object_ids(gt_classes), -2 - labels])
        self.context = {**self.context, "object_ids": ids}
        return rows.to(features.dtype), labels

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        if self.queue_size:
            self.memory = FeatureMemory(self.num_classes, self.queue_size, linear.in_features)
        return super().reset_classifier(linear)

    def _object_ids(self, gt_classes: Tensor) -> Tensor:
        ids = self.field("object_ids", gt_classes)
        return torch.arange(len(gt_classes), device=gt_classes.device) if ids is None else ids
