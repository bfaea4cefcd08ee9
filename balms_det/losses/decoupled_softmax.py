"""Softmax for RoIs with several labels (Gupta et al., "Dual-Encoders for Extreme Multi-Label
Classification", ICLR 2024): decoupled softmax and soft top-k loss.

LVIS draws boxes of different classes on one object (a toy that is a car). Plain softmax pushes
down all but the one that the RoI was matched to.

Symbols: see :mod:`balms_det.losses.core.context`, and
    P       labels of a RoI: the class that it was matched to and all others of the same object;
            {background} on background RoIs
    t       shift of a RoI's logits for which ``sum_c sigmoid(z_c + t) = k``
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.core import functional
from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.core.context import ContextLoss
from balms_det.losses.core.families import SoftmaxFamily
from balms_det.losses.core.functional import with_gradient

# Steps to the shift of soft top-k; each at least halves its bracket where Newton's would leave it.
SHIFT_STEPS = 20


class MultiLabelFamily(ContextLoss, SoftmaxFamily):
    """Losses on K + 1 logits whose RoIs have one label or several."""

    needs_class_stats = False
    reads = ("all_classes",)

    def labels(self, gt_classes: Tensor) -> Tensor:
        """P of every RoI, (R, K + 1) boolean: at least its label."""
        outputs = torch.arange(self.num_logits, device=gt_classes.device)
        own = gt_classes.unsqueeze(1) == outputs
        others = self.field("all_classes", gt_classes)
        if others is None:
            return own
        is_foreground = (gt_classes < self.num_classes).unsqueeze(1)
        return own | (F.pad(others, (0, 1)) & is_foreground)


@BOX_LOSS_REGISTRY.register()
class DecoupledSoftmaxLoss(MultiLabelFamily):
    """``sum_{p in P} -log(e^z_p / (e^z_p + sum_{n not in P} e^z_n))`` (paper, section 4.1).

    Labels of a RoI do not compete with each other. With one label it is cross-entropy.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; counts are not read.
    """

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        if self.field("all_classes", gt_classes) is None:  # one label each
            return self.plain_per_roi(logits, gt_classes)
        labels = self.labels(gt_classes)
        negatives = logits.masked_fill(labels, -torch.inf).logsumexp(dim=1, keepdim=True)
        terms = F.softplus(negatives - logits)
        return torch.where(labels, terms, 0).sum(dim=1)


@BOX_LOSS_REGISTRY.register()
class SoftTopKLoss(MultiLabelFamily):
    """``-sum_{p in P} log sigmoid(z_p + t)``, the soft top-k form (paper, section 4.2).

    The k highest logits share k among them, so that labels need only be among the k highest. Scores
    are the plain softmax.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; counts are not read.
        k: how many outputs are meant to be high; a RoI with more labels has as many as these.

    Raises:
        ValueError: ``k`` outside [1, K].
    """

    def __init__(self, num_classes: int, class_stats: Any = None, *, k: int = 1):
        super().__init__(num_classes, class_stats)
        if not 1 <= k <= num_classes:
            raise ValueError(f"k must lie in [1, {num_classes}], got {k}")
        self.k = k

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        if self.field("all_classes", gt_classes) is None:  # one label each
            shift = top_k_shift(logits, logits.new_full((len(logits), 1), self.k))
            own = logits.gather(1, gt_classes.unsqueeze(1))
            return F.softplus(-(own + shift)).squeeze(1)
        labels = self.labels(gt_classes)
        wanted = labels.sum(dim=1, keepdim=True).clamp(min=self.k, max=self.num_classes)
        terms = F.softplus(-(logits + top_k_shift(logits, wanted.to(logits.dtype))))
        return torch.where(labels, terms, 0).sum(dim=1)


def top_k_shift(logits: Tensor, k: Tensor) -> Tensor:
    """t with ``sum_c sigmoid(z_c + t) = k``, (R, 1), which can be differentiated once.

    Found by Newton's method on the logarithm of the sum, within a bracket; its gradient follows
    from the equation (implicit function theorem), not from the steps.

    Args:
        logits: (R, L).
        k: (R, 1), in [1, L).
    """
    shift, score = _solve_shift(logits.detach(), k)
    slope = torch.addcmul(score, score, score, value=-1, out=score)
    slope /= -slope.sum(dim=1, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
    return with_gradient(logits, shift.squeeze(1), slope).unsqueeze(1)


def _solve_shift(logits: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The shift, (R, 1), and the sigmoids of the shifted logits, (R, L)."""
    centre = torch.log(k / (logits.shape[1] - k))
    low = centre - logits.amax(dim=1, keepdim=True)
    high = centre - logits.amin(dim=1, keepdim=True)
    # sigmoid(x) < e^x: the root lies above this, and near it where logits are far apart.
    shift = torch.maximum(low, k.log() - logits.logsumexp(dim=1, keepdim=True))
    close = 8 * torch.finfo(logits.dtype).eps * k
    score = (logits + shift).sigmoid_()
    for _ in range(SHIFT_STEPS):
        total = score.sum(dim=1, keepdim=True)
        if functional.on_cpu(total) and bool(((total - k).abs() <= close).all()):
            break
        slope = total - torch.linalg.vector_norm(score, dim=1, keepdim=True).square()
        low = torch.where(total <= k, shift, low)
        high = torch.where(total >= k, shift, high)
        newton = shift + torch.log(k / total) * total / slope
        inside = (newton >= low) & (newton <= high)
        shift = torch.where(inside, newton, (low + high) / 2)
        torch.add(logits, shift, out=score).sigmoid_()
    return shift, score
