"""A memory of RoI features by class, to draw rows of classes that a batch lacks.

Symbols: see :mod:`balms_det.losses.core.context`, and
    Q  features that are kept a class
"""

import torch
from torch import Tensor, nn

from balms_det.losses.core.functional import rank_in_class
from balms_det.losses.core.state import join_rows, num_ranks


class FeatureMemory(nn.Module):
    """A queue of the last Q features of every class.

    Kept in float16: at K = 1203, Q = 80 and D = 1024 that is 197 MB, on the device of the model and
    in its checkpoint. It is the same on all ranks.

    Args:
        num_classes: K.
        queue_size: Q.
        width: D.
    """

    def __init__(self, num_classes: int, queue_size: int, width: int):
        super().__init__()
        self.num_classes = num_classes
        self.queue_size = queue_size
        # One more row than features: what is not to be stored is written there, as zeros, so that
        # no rows have to be selected, which would stall a GPU.
        rows = num_classes * queue_size + 1
        self.register_buffer("features", torch.zeros(rows, width, dtype=torch.float16))
        self.register_buffer("stored", torch.zeros(num_classes, dtype=torch.long))

    def filled(self) -> Tensor:
        """How many features each class has, (K,) integers in [0, Q]."""
        return self.stored.clamp(max=self.queue_size)

    @torch.no_grad()
    def push(self, features: Tensor, gt_classes: Tensor) -> None:
        """Store the features of foreground RoIs, of each class the first Q of the batch.

        The batch is that of all ranks, one after the other, so every rank must call this as often.

        Args:
            features: (R, D).
            gt_classes: (R,) in [0, K]; background is not stored.
        """
        if num_ranks() > 1:
            objects = gt_classes < self.num_classes
            features, _ = join_rows(self._stored(features[objects]))
            gt_classes, _ = join_rows(gt_classes[objects])
        rank = rank_in_class(gt_classes)
        kept = (gt_classes < self.num_classes) & (rank < self.queue_size)
        label = gt_classes.clamp(max=self.num_classes - 1)
        slot = (self.stored[label] + rank) % self.queue_size
        unused = torch.full_like(slot, len(self.features) - 1)
        row = torch.where(kept, label * self.queue_size + slot, unused)
        values = torch.where(kept.unsqueeze(1), self._stored(features), 0)
        self.features.index_copy_(0, row, values)
        self.stored.index_add_(0, label, kept.to(self.stored.dtype))

    def _stored(self, features: Tensor) -> Tensor:
        """Features in the dtype that they are kept in, finite."""
        limit = torch.finfo(self.features.dtype).max
        return features.clamp(-limit, limit).to(self.features.dtype)

    @torch.no_grad()
    def draw(self, classes: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Features of given classes, with their labels: (C * F, D) float16 and (C * F,).

        The rows of a class without features are zeros and labelled as background.

        Args:
            classes: (C,) in [0, K).
            uniform: (C, F) draws from [0, 1): which of a class's features.
        """
        filled = self.filled()[classes].unsqueeze(1)
        slot = (uniform * filled).long().clamp(max=self.queue_size - 1)
        rows = classes.unsqueeze(1) * self.queue_size + slot
        labels = torch.where(filled > 0, classes.unsqueeze(1), self.num_classes)
        return self.features[rows.flatten()], labels.expand_as(rows).flatten()


def sizes_of_groups(ids: Tensor) -> Tensor:
    """How many elements of ``ids`` (R,) are equal to each, (R,) integers of at least 1."""
    ordered = torch.sort(ids).values
    after = torch.searchsorted(ordered, ids, right=True)
    return after - torch.searchsorted(ordered, ids)


def draw_classes(mean_score: Tensor, uniform: Tensor, eps: float = 1e-7) -> Tensor:
    """Classes drawn with probability proportional to ``1 / (mean_score + eps)``, increasing.

    Args:
        mean_score: (K,); infinity for a class that is not to be drawn.
        uniform: (C,) draws from [0, 1).
    """
    rate = 1 / (mean_score + eps)
    cumulative = rate.cumsum(0) / rate.sum().clamp(min=torch.finfo(rate.dtype).tiny)
    picked = torch.searchsorted(cumulative, uniform.to(rate.dtype).sort().values)
    return picked.clamp(max=len(mean_score) - 1)
