"""Which RoIs of an image are cached."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from balms_det.engine.feature_cache.attributes import replaced


class ForegroundAndSome:
    """Stands in for a head's ``_sample_proposals``: all foreground, and some background RoIs.

    Args:
        heads: Detectron2's ROI heads, whose own sampler says which RoIs are which.
        background: how many background RoIs, -1 for all.

    Attributes:
        generator: of the choice of background RoIs; on the CPU, so that it does not depend on the
            device.
        sampled: (foreground, all) RoIs that the head's own sampler took of the last image.
    """

    def __init__(self, heads: nn.Module, background: int):
        self.heads = heads
        self.original = heads._sample_proposals
        self.background = background
        self.generator = torch.Generator()
        self.sampled = (0, 0)

    def __call__(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``ROIHeads._sample_proposals``; the RoIs come in the order of the proposals."""
        arguments = (matched_idxs, matched_labels, gt_classes)
        _, taken = self.original(*arguments)
        self.sampled = (int((taken < self.heads.num_classes).sum()), len(taken))
        everything = {"batch_size_per_image": len(matched_idxs), "positive_fraction": 1.0}
        with replaced(self.heads, **everything):
            index, labels = self.original(*arguments)
        index, order = index.sort()
        labels = labels[order]
        kept = self._choose(labels < self.heads.num_classes)
        return index[kept], labels[kept]

    def _choose(self, foreground: Tensor) -> Tensor:
        """Indices of the RoIs to keep, ascending."""
        background = (~foreground).nonzero().flatten()
        if 0 <= self.background < len(background):
            drawn = torch.randperm(len(background), generator=self.generator)[: self.background]
            background = background[drawn.to(background.device)]
        return torch.cat([foreground.nonzero().flatten(), background]).sort()[0]
