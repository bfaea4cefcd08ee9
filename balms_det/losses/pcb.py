"""Pairwise Class Balance (He et al., "Relieving Long-tailed Instance Segmentation via Pairwise
Class Balance", CVPR 2022, PCB): soft labels from the running confusion of the classifier.

Symbols: see :mod:`balms_det.losses.core.state`, and
    p_t(y)   soft label of y, the classes that are taken for y: column y of M, with sum 1 in all
             but the form for EQLv2
    alpha    share of the soft label in the target of a foreground RoI

The authors' head refines a RoI's feature in ``n_iter`` iterations and uses
``alpha * iter_id / (n_iter - 1)`` in each. A head with one classifier is the last of them, with
the whole alpha; ``iter_id`` is an attribute that a head with more may set.

Symbols: see :mod:`balms_det.losses.pcb` and
:mod:`balms_det.losses.eqlv2`, and
    t   target of an output: 1 for the label, on foreground mixed with the soft label

"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY, BoxLoss
from balms_det.losses.core.families import SoftmaxFamily, is_foreground
from balms_det.losses.core.functional import rows_of_objects, with_gradient
from balms_det.losses.core.priors import class_counts
from balms_det.losses.core.soft_labels import SoftTargets, soft_binary_terms, soft_cross_entropy
from balms_det.losses.core.state import move_confusion_
from balms_det.losses.eqlv2 import EQLv2Loss
from balms_det.losses.seesaw import SeesawLoss

#: Epochs of the authors' schedule (2x); ``start_epoch`` counts in these, whatever a run's length.
EPOCHS = 24


class PairwiseBalance(BoxLoss):
    """What the PCB losses share: the running confusion, and how strongly it is used.

    Soft labels are used from ``start_epoch`` on, once every class has been seen. As opposed to
    the authors' code, a class without training images is not waited for. M moves *before* the loss.

    State, float64: ``fg_confusion_matrix`` (K, K), ``num_inst_cnt`` (K,), RoIs of each class so
    far, both exact over ranks, and ``epoch`` (), which :meth:`set_progress` sets.
    """

    has_detached_factors = True
    #: Whether rows of M and soft labels have sum 1.
    normalised = True

    def start_balance(
        self, class_stats: Any, *, alpha: float, momentum: float, start_epoch: float, n_iter: int
    ) -> None:
        """Set up the state; the constructors of the PCB losses call it.

        Raises:
            ValueError: ``alpha`` or ``momentum`` outside [0, 1], or fewer than two iterations.
        """
        for name, value in {"alpha": alpha, "momentum": momentum}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        if n_iter < 2:
            raise ValueError(f"n_iter must be at least 2, got {n_iter}")
        self.soft_share, self.momentum = alpha, momentum
        self.start_epoch, self.n_iter, self.iter_id = start_epoch, n_iter, n_iter - 1
        zeros = torch.zeros((self.num_classes, self.num_classes), dtype=torch.float64)
        self.register_buffer("fg_confusion_matrix", zeros)
        self.register_buffer("num_inst_cnt", torch.zeros(self.num_classes, dtype=torch.float64))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.float64))
        trained = class_counts(class_stats, "image")[0] > 0
        self.register_buffer("has_images", trained, persistent=False)

    def set_progress(self, fraction: float) -> None:
        """Say which share of the training is over, in [0, 1]."""
        self.epoch.fill_(EPOCHS * fraction)

    def move_confusion(self, class_scores: Tensor, gt_classes: Tensor) -> None:
        """Move M by the (R, K) scores of a batch; RoIs of background may be missing."""
        move_confusion_(
            self.fg_confusion_matrix,
            self.num_inst_cnt,
            class_scores,
            gt_classes,
            momentum=self.momentum,
            normalise=self.normalised,
        )

    def shares(self, gt_classes: Tensor, dtype: torch.dtype) -> Tensor:
        """Share of the soft label in the target of every RoI, (R,); 0 on background."""
        seen = (self.num_inst_cnt > 0) | ~self.has_images
        ready = (self.epoch >= self.start_epoch) & seen.all()
        share = self.soft_share * self.iter_id / (self.n_iter - 1)
        return (is_foreground(gt_classes, self.num_classes) & ready).to(dtype) * share

    def soft_labels(self, dtype: torch.dtype, columns: int) -> Tensor:
        """p_t of every label, (K + 1, columns); zeros for background and beyond column K."""
        matrix = self.fg_confusion_matrix
        labels = matrix.new_zeros((self.num_classes + 1, columns), dtype=dtype)
        labels[:-1, : self.num_classes] = matrix.t()
        if self.normalised:
            labels /= labels.sum(dim=1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
        return labels


@BOX_LOSS_REGISTRY.register()
class PCBLoss(PairwiseBalance, SoftmaxFamily):
    """Cross-entropy, on foreground ``(1 - alpha) * cross-entropy + alpha * KL(p_t || p)``.

    M is of the softmax over foreground logits; see :class:`PairwiseBalance` for the state.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        alpha: share of the soft label.
        momentum: share of a row of M that a batch keeps.
        start_epoch: first epoch, of :data:`EPOCHS`, with soft labels.
        n_iter: iterations of the authors' head.

    Raises:
        ValueError: see :meth:`PairwiseBalance.start_balance`.
    """

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
        self.start_balance(
            class_stats, alpha=alpha, momentum=momentum, start_epoch=start_epoch, n_iter=n_iter
        )

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        self.advance(logits, gt_classes)
        soft = self.soft_labels(logits.dtype, self.num_logits)
        share = self.shares(gt_classes, logits.dtype)
        mixed = soft_cross_entropy(logits, SoftTargets(soft, gt_classes, share))
        # torch.special.entr is five times slower on a CPU.
        entropy = -(soft.clamp(min=torch.finfo(soft.dtype).tiny).log_().mul_(soft).sum(dim=1))
        return mixed - share * entropy[gt_classes]

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        logits, gt_classes = rows_of_objects(self.num_classes, gt_classes, logits)
        self.move_confusion(F.softmax(logits[:, : self.num_classes], dim=1), gt_classes)


@BOX_LOSS_REGISTRY.register()
class PCBSeesawLoss(PairwiseBalance, SeesawLoss):
    """Seesaw loss whose class part is mixed with cross-entropy against p_t, on the same logits.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        alpha, momentum, start_epoch, n_iter: see :class:`PCBLoss`.
        p, q, eps, cosine: see :class:`SeesawLoss`, whose temperature is 20.

    Raises:
        ValueError: see :meth:`PairwiseBalance.start_balance` and :class:`SeesawLoss`.
    """

    needs_class_stats = True

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        alpha: float = 0.4,
        momentum: float = 0.99,
        start_epoch: float = 17,
        n_iter: int = 3,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 0.01,
        cosine: bool = True,
    ):
        super().__init__(num_classes, class_stats, p=p, q=q, eps=eps, cosine=cosine)
        self.start_balance(
            class_stats, alpha=alpha, momentum=momentum, start_epoch=start_epoch, n_iter=n_iter
        )

    def class_loss(self, classes: Tensor, labels: Tensor) -> Tensor:
        soft = self.soft_labels(classes.dtype, self.num_classes)
        share = self.shares(labels, classes.dtype)
        return soft_cross_entropy(classes, SoftTargets(soft, labels, share), self.class_offsets)

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        super().move_state(logits, gt_classes)
        logits, gt_classes = rows_of_objects(self.num_classes, gt_classes, logits)
        self.move_confusion(F.softmax(logits[:, : self.num_classes], dim=1), gt_classes)


@BOX_LOSS_REGISTRY.register()
class PCBEQLv2Loss(PairwiseBalance, EQLv2Loss):
    """EQLv2 whose foreground targets are ``(1 - alpha) * one-hot + alpha * p_t``.

    M is of sigmoid scores, and neither its rows nor the soft labels have sum 1. Soft targets also
    share out EQLv2's weights and gradients: t of a term counts as positive and 1 - t as negative.
    M moves before the loss and EQLv2's gradients after it.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`.
        alpha, momentum, start_epoch, n_iter: see :class:`PCBLoss`.
        gamma, mu, alpha_eqlv2: gamma, mu and alpha of :class:`EQLv2Loss`.
        prior_prob: see :class:`EQLv2Loss`.

    Raises:
        ValueError: see :meth:`PairwiseBalance.start_balance` and :class:`EQLv2Loss`.
    """

    needs_class_stats = True
    normalised = False

    def __init__(
        self,
        num_classes: int,
        class_stats: Any,
        *,
        alpha: float = 0.2,
        momentum: float = 0.99,
        start_epoch: float = 17,
        n_iter: int = 3,
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha_eqlv2: float = 4.0,
        prior_prob: float = 0.001,
    ):
        super().__init__(
            num_classes, class_stats, gamma=gamma, mu=mu, alpha=alpha_eqlv2, prior_prob=prior_prob
        )
        self.start_balance(
            class_stats, alpha=alpha, momentum=momentum, start_epoch=start_epoch, n_iter=n_iter
        )
        # What move_state has computed of the batch, for the loss of it.
        self._terms: tuple[Tensor, Tensor, Tensor] | None = None

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        self.advance(logits, gt_classes)
        terms, self._terms = self._terms, None
        if terms is None:  # no state moves
            terms = self._compute(logits.detach(), gt_classes)
        losses, slopes, _ = terms
        return with_gradient(logits, losses, slopes)

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        objects, labels = rows_of_objects(self.num_classes, gt_classes, logits)
        self.move_confusion(objects[:, : self.num_classes].sigmoid(), labels)
        terms = self._compute(logits, gt_classes)
        # The loss is of the weights before this batch too; an empty batch has no loss to follow.
        self._terms = terms if len(logits) else None
        self.add_gradients(*terms[2])

    def _compute(self, logits: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, their derivatives and the gradients of outputs: see ``soft_binary_terms``."""
        positive, negative = (weight.to(logits.dtype) for weight in self.class_weights())
        soft = self.soft_labels(logits.dtype, self.num_logits)
        targets = SoftTargets(soft, gt_classes, self.shares(gt_classes, logits.dtype))
        return soft_binary_terms(logits, targets, positive, negative)
