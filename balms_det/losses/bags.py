"""Balanced Group Softmax, BAGS (Li et al., "Overcoming Classifier Imbalance for Long-tail Object
Detection with Balanced Group Softmax", CVPR 2020).

Symbols: see :mod:`balms_det.losses.core.base`, and
    bin      classes with similar counts; within a bin all compete in one softmax
    others   the first output of each bin of classes: "none of this bin"
    B        bins of classes; bin 0, object against background, is not one of them

The logits are ``[background, object]`` and then bin after bin ``[others, its classes]``, classes
in the order of their index: L = K + 2 + B. Background is an "others" of every bin.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY, BoxLoss, full_precision
from balms_det.losses.core.families import joint_scores
from balms_det.losses.core.functional import lowest_keys
from balms_det.losses.core.priors import class_counts, count_bins


@BOX_LOSS_REGISTRY.register()
class BAGSLoss(BoxLoss):
    """Cross-entropy in every bin, each averaged over its own RoIs; the bins are summed.

    Of a bin's others only ``others_sample_ratio`` times as many as it has objects take part,
    drawn anew for each bin and batch; a bin without objects has no loss. The plain loss has all
    RoIs in all bins.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        others_sample_ratio: RoIs of "others" for one of the bin's own (beta of section 4.2).
        bin_edges: counts at which the next bin begins.
        counts: "instance" (the authors' choice) or "image".

    Raises:
        ValueError: an unknown ``counts``, edges that do not increase, or a negative ratio.
    """

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        others_sample_ratio: float = 8.0,
        bin_edges: Sequence[float] = (10, 100, 1000),
        counts: str = "instance",
    ):
        super().__init__(num_classes, class_stats)
        if others_sample_ratio < 0:
            raise ValueError(f"others_sample_ratio may not be negative, got {others_sample_ratio}")
        self.others_sample_ratio = others_sample_ratio
        with torch.device("cpu"):  # sizes are numbers, whatever the default device is
            bins = count_bins(class_counts(class_stats, counts)[0], bin_edges)
            members = F.one_hot(bins, len(bin_edges) + 1)
            index = (members.cumsum(dim=0) * members).t()  # 1, 2, ... in the own bin, else 0
            self.slices = [2, *(1 + members.sum(dim=0)).tolist()]
            starts = torch.tensor([0, *self.slices]).cumsum(0)[1:-1]
            self._class_columns = starts[bins] + index.sum(dim=0)
        device = torch.empty(0).device
        # What a label is in each bin, (B, K + 1): 0 is "others".
        self.register_buffer("bin_labels", F.pad(index, (0, 1)).to(device), persistent=False)
        self.register_buffer("columns", self._class_columns.to(device, copy=True), persistent=False)

    @property
    def num_logits(self) -> int:
        return sum(self.slices)

    @property
    def class_columns(self) -> Tensor:
        return self._class_columns

    def bin_losses(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Cross-entropy of every RoI in every bin, bin 0 first: (R, 1 + B)."""
        is_object = (gt_classes < self.num_classes).long()
        targets = [is_object, *self.bin_labels[:, gt_classes]]
        parts = zip(logits.split(self.slices, dim=1), targets)
        losses = [F.cross_entropy(part, target, reduction="none") for part, target in parts]
        return torch.stack(losses, dim=1)

    def bin_weights(self, gt_classes: Tensor, draws: Tensor) -> Tensor:
        """Which RoIs take part in each bin of classes, (R, B) boolean.

        Args:
            gt_classes: (R,) in [0, K].
            draws: (R, B) uniform; of the others those with the lowest take part.
        """
        own = self.bin_labels[:, gt_classes].t() > 0
        wanted = (own.sum(dim=0).double() * self.others_sample_ratio).floor()
        # No object, no others: wanted is 0 there.
        return own | lowest_keys(draws, ~own, wanted)

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        losses = self.bin_losses(logits, gt_classes)
        draws = self.draw_uniform(len(logits), losses.shape[1] - 1, like=logits)
        weights = self.bin_weights(gt_classes, draws).to(logits.dtype)
        # Bins are averages over their own RoIs, the base class divides by R.
        scale = len(logits) / weights.sum(dim=0).clamp(min=1)
        return losses[:, 0] + (losses[:, 1:] * (weights * scale)).sum(dim=1)

    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return self.bin_losses(logits, gt_classes).sum(dim=1)

    def scores(self, logits: Tensor) -> Tensor:
        parts = full_precision(logits).split(self.slices, dim=1)
        softmax = [F.softmax(part, dim=1) for part in parts]
        in_bin = torch.cat(softmax, dim=1)[:, self.columns]
        return joint_scores(in_bin, softmax[0][:, :1])
