"""Pairwise Class Balance (He et al., "Relieving Long-tailed Instance Segmentation via Pairwise
Class Balance", CVPR 2022, PCB): soft labels from the running confusion of the classifier.

Symbols: see :mod:`balms_det.losses.confusion`, and
    p_t(y)   soft label of y: the classes that are taken for y, column y of M (of sum 1)
    alpha    share of the soft label in the target of a foreground RoI

The authors' head refines a RoI's feature in ``n_iter`` iterations and uses
``alpha * iteration / (n_iter - 1)`` in each. A head with one classifier is the last iteration,
with alpha; that of stage s of a cascade may be set to s (:attr:`PairwiseBalance.iteration`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.losses.base import BOX_LOSS_REGISTRY
from balms_det.losses.class_priors import class_counts
from balms_det.losses.confusion import RunningConfusion
from balms_det.losses.softmax import SoftmaxFamily

#: Epochs of the authors' schedule (2x); ``start_epoch`` counts in these, whatever a run's length.
EPOCHS = 24


class PairwiseBalance(nn.Module):
    """What the PCB losses share: the confusion, and how strongly it is used.

    The soft labels are used from ``start_epoch`` on, once every class has been seen; as
    opposed to the authors' code, a class without training images is not waited for.

    State: that of :class:`RunningConfusion`, and ``epoch`` (1,), set by :meth:`set_progress`.

    Args:
        image_count: (K,) training images.
        alpha, momentum: see the module's docstring and :class:`RunningConfusion`.
        start_epoch: first epoch, of :data:`EPOCHS`, with soft labels.
        n_iter: iterations of the authors' head.
        normalise: whether M's rows, and the soft labels, have sum 1.

    Raises:
        ValueError: ``alpha`` outside [0, 1], or fewer than two iterations.
    """

    def __init__(
        self,
        image_count: Tensor,
        *,
        alpha: float,
        momentum: float,
        start_epoch: float,
        n_iter: int,
        normalise: bool = True,
    ):
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
        if n_iter < 2:
            raise ValueError(f"n_iter must be at least 2, got {n_iter}")
        self.alpha = alpha
        self.start_epoch = start_epoch
        self.n_iter = n_iter
        self.iteration = n_iter - 1
        self.normalise = normalise
        self.confusion = RunningConfusion(len(image_count), momentum, normalise)
        self.register_buffer("epoch", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("trained", image_count > 0, persistent=False)

    def set_progress(self, fraction: float) -> None:
        """Say which share of the training is over, in [0, 1]."""
        self.epoch.fill_(EPOCHS * fraction)

    def strength(self, dtype: torch.dtype) -> Tensor:
        """Share of the soft label, a scalar: 0 until it is used."""
        ready = (self.epoch >= self.start_epoch) & (
            (self.confusion.count > 0) | ~self.trained
        ).all()
        return ready.to(dtype).squeeze() * (self.alpha * self.iteration / (self.n_iter - 1))

    def soft_labels(self, dtype: torch.dtype) -> Tensor:
        """p_t of every label, (K + 1, K): row y; zeros for background."""
        columns = self.confusion.column_shares() if self.normalise else self.confusion.matrix.t()
        return F.pad(columns.to(dtype), (0, 0, 0, 1))


@BOX_LOSS_REGISTRY.register()
class PCBLoss(SoftmaxFamily):
    """Cross-entropy whose foreground is mixed with ``alpha * KL(p_t || p)`` (section 3.2).

    A foreground RoI's cross-entropy is multiplied by ``1 - alpha``; a background RoI has it whole.
    M, with the mean softmax over foreground logits, moves *before* the loss.

    State: see :class:`PairwiseBalance`.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        alpha, momentum, start_epoch, n_iter: see :class:`PairwiseBalance`; the authors' values.
    """

    has_detached_factors = True

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        alpha: float = 0.4,
        momentum: float = 0.99,
        start_epoch: float = 17,
        n_iter: int = 3,
    ):
        super().__init__(num_classes, class_stats)
        self.balance = PairwiseBalance(
            class_counts(class_stats, "image")[0],
            alpha=alpha,
            momentum=momentum,
            start_epoch=start_epoch,
            n_iter=n_iter,
        )

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        self.advance(logits, gt_classes)
        log_prob = F.log_softmax(logits, dim=1)
        hard = -log_prob.gather(1, gt_classes.unsqueeze(1)).squeeze(1)
        soft = self.balance.soft_labels(logits.dtype)
        entropy = torch.special.entr(soft).sum(dim=1)
        kl = -(soft[gt_classes] * log_prob[:, :-1]).sum(dim=1) - entropy[gt_classes]
        share = self.balance.strength(logits.dtype) * (gt_classes < self.num_classes)
        return (1 - share) * hard + share * kl

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        classes = F.softmax(logits[:, : self.num_classes], dim=1)
        self.balance.confusion.move(classes, gt_classes)
