"""The contract of a box-classification loss.

Symbols and shapes
    K           foreground classes; label ``K`` is background, as in Detectron2
    R           RoIs of a batch, over all its images
    L           columns of the classifier's output, ``num_logits``
    logits      (R, L) float
    gt_classes  (R,) integer in ``[0, K]``
    scores      (R, K + 1) float in [0, 1], background last

A loss owns everything about the classifier's output: how many logits there are, how they become a
loss and how they become scores. To add one, subclass :class:`SoftmaxFamily`,
:class:`SigmoidFamily` or :class:`BoxLoss`, write ``per_roi`` and register the class.

What holds for every loss, beside shapes (tests/losses/test_loss_contract.py checks it)
    rows     Row i of ``per_roi`` depends on other rows of ``logits`` through constants (detached)
             only, so its Jacobian is block-diagonal: ``autograd.grad(per_roi(z).sum(), z)`` holds
             the gradient of every RoI's loss. Meta learning relies on it.
    state    Running state lives in persistent buffers and moves in :meth:`BoxLoss.move_state`
             alone, which ``per_roi`` has called once, through :meth:`BoxLoss.advance`, before or
             after the loss is computed, and only in training mode. Scores and the plain loss move
             nothing. What is summed over RoIs is summed over ranks
             (:mod:`balms_det.losses.core.state`); a state of gradients takes their closed form.
    draws    Random draws come from :meth:`BoxLoss.draw_uniform` alone.
    speed    No loop over classes or RoIs, and nothing that makes a GPU wait: no ``.item()``, no
             ``nonzero``, no selection by a boolean mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from balms_det.utils.registry import check_keywords

BOX_LOSS_REGISTRY = Registry("BOX_LOSS")
BOX_LOSS_REGISTRY.__doc__ = "Box-classification losses by class name (see :class:`BoxLoss`)."


def full_precision(logits: Tensor) -> Tensor:
    """``logits`` in float32 when they are float16 or bfloat16, else unchanged."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class BoxLoss(nn.Module, ABC):
    """A box-classification loss; its state (class priors, running sums) lives in buffers.

    Class priors follow from the class statistics and are non-persistent buffers: a checkpoint
    neither carries nor overrides them. Running state is persistent, and a subclass that sums it
    over RoIs all-reduces it.

    Args:
        num_classes: K.
        class_stats: counts of the training set: any object with ``image_count`` and
            ``instance_count`` (each of length K) and ``num_images``. May be None for a class
            whose ``needs_class_stats`` is False.

    Raises:
        ValueError: K below 1, statistics missing though needed, or not of length K.
    """

    #: Whether the constructor reads ``class_stats``.
    needs_class_stats = True
    #: Whether ``per_roi`` equals ``plain_per_roi`` where every class is in half of the images.
    equal_counts_are_plain = False
    #: Whether the gradient treats factors that follow from the logits as constants, so that it is
    #: not the derivative of the loss.
    has_detached_factors = False
    #: Whether the mean over ranks of the loss of their batches is that of the whole batch.
    exact_over_ranks = True

    def __init__(self, num_classes: int, class_stats: Any = None):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if class_stats is not None:
            check_stats(class_stats, num_classes)
        elif self.needs_class_stats:
            raise ValueError(
                f"{type(self).__name__} needs class_stats: an object with image_count, "
                "instance_count and num_images of the training set"
            )
        self.num_classes = num_classes

    @property
    @abstractmethod
    def num_logits(self) -> int:
        """L, the number of outputs that the classifier must have."""

    @property
    def class_columns(self) -> Tensor:
        """The logit column of every class, (K,) integers on the CPU."""
        return torch.arange(self.num_classes)

    @abstractmethod
    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """The loss of every RoI, (R,): the paper's formula and nothing else.

        ``logits`` are float32 or float64 and must not be edited in place; R may not be 0.
        """

    @abstractmethod
    def plain_per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """The loss of every RoI, (R,), without the adjustment for the long tail."""

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Scores for inference, (R, K + 1), background last, in float32 or float64."""

    def move_state(self, logits: Tensor, gt_classes: Tensor) -> None:
        """Move the running state by a batch; a loss without state has nothing to do.

        Called without gradient, in training mode only. R may be 0: the rank takes part in the sum
        over ranks all the same, or the others would wait for it.
        """

    def advance(self, logits: Tensor, gt_classes: Tensor) -> None:
        """:meth:`move_state` where the state is to move; ``per_roi`` calls it once."""
        if self.training:
            with torch.no_grad():
                self.move_state(logits.detach(), gt_classes)

    def draw_uniform(self, *shape: int, like: Tensor) -> Tensor:
        """Uniform draws from [0, 1): the only source of chance; override it to fix the draws.

        Args:
            shape: the first axis counts RoIs (R) or classes (K).
            like: a tensor of the dtype and on the device that are wanted.
        """
        return torch.rand(shape, dtype=like.dtype, device=like.device)

    def mean_loss(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """The mean of ``per_roi``; override it only for a fused kernel of the same value."""
        return self.per_roi(logits, gt_classes).sum() / len(logits)

    def accuracy_scores(self, logits: Tensor) -> Tensor:
        """(R, K + 1) values whose largest column is the predicted class, for accuracy logs."""
        return self.scores(logits)

    def reset_classifier(self, linear: nn.Linear) -> nn.Module:
        """Initialise the classifier, a Linear with L outputs, and return it.

        A loss that needs another kind of classifier (cosine, for example) returns that instead.
        """
        return linear

    def forward(self, logits: Tensor, gt_classes: Tensor, weights: Tensor | None = None) -> Tensor:
        """The scalar loss: the sum over RoIs of weight times ``per_roi``, divided by R.

        Half-precision logits are computed in float32, with autocast off. An empty batch gives a
        zero that is still connected to ``logits``, so that every parameter has a gradient.

        Args:
            logits: (R, L).
            gt_classes: (R,) integers in [0, K].
            weights: (R,) factors of the RoIs; None for 1. They may require gradient.

        Raises:
            ValueError: wrong shapes or dtypes; a label outside [0, K] (looked at on CPU only,
                since on an accelerator the look would stall it).
        """
        check_batch(self, logits, gt_classes, weights)
        with torch.autocast(logits.device.type, enabled=False):
            logits = full_precision(logits)
            if len(logits) == 0:
                self.advance(logits, gt_classes)
                return logits.sum() * 0
            if weights is None:
                return self.mean_loss(logits, gt_classes)
            per_roi = self.per_roi(logits, gt_classes)
            return (per_roi * weights.to(per_roi.dtype)).sum() / len(logits)

    def plain_loss(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """The mean of ``plain_per_roi``, the objective of meta learning; moves no state."""
        check_batch(self, logits, gt_classes)
        with torch.autocast(logits.device.type, enabled=False):
            logits = full_precision(logits)
            if len(logits) == 0:
                return logits.sum() * 0
            return self.plain_per_roi(logits, gt_classes).sum() / len(logits)

    def row_gradients(self, logits: Tensor, gt_classes: Tensor) -> tuple[Tensor, Tensor]:
        """``per_roi`` and its gradient by the logits of the same RoI, (R,) and (R, L), no graph.

        They are what a weighted loss needs: a factor of a RoI multiplies its row of both. State
        moves once, as in ``forward``. Half-precision logits are computed in float32.
        """
        check_batch(self, logits, gt_classes)
        with torch.autocast(logits.device.type, enabled=False), torch.enable_grad():
            logits = full_precision(logits.detach()).requires_grad_()
            if len(logits) == 0:
                self.advance(logits, gt_classes)
                return logits.new_zeros(0), torch.zeros_like(logits)
            losses = self.per_roi(logits, gt_classes)
            return losses.detach(), torch.autograd.grad(losses.sum(), logits)[0]


def build_box_loss(name: str, num_classes: int, class_stats: Any = None, **kwargs: Any) -> BoxLoss:
    """Build a registered loss.

    Args:
        name: a name in :data:`BOX_LOSS_REGISTRY`.
        num_classes: K.
        class_stats: see :class:`BoxLoss`.
        kwargs: the loss's own keyword arguments.

    Raises:
        ValueError: unknown name, or class statistics that disagree with ``num_classes``.
        TypeError: a keyword that the loss does not take, or a value of another kind.

    Example:
        >>> loss = build_box_loss("SigmoidLoss", num_classes=2, prior_prob=0.01)
        >>> loss(torch.zeros(3, loss.num_logits), torch.tensor([0, 1, 2]))
        tensor(1.3863)
    """
    if name not in BOX_LOSS_REGISTRY:
        known = ", ".join(sorted(key for key, _ in BOX_LOSS_REGISTRY))
        raise ValueError(f"Unknown box loss {name!r}. Registered: {known}")
    loss_class = BOX_LOSS_REGISTRY.get(name)
    check_keywords(loss_class, kwargs)
    return loss_class(num_classes, class_stats, **kwargs)


def check_batch(
    loss: BoxLoss, logits: Tensor, gt_classes: Tensor, weights: Tensor | None = None
) -> None:
    """Raise ValueError for wrong shapes or dtypes, or, on a CPU, a label outside [0, K]."""
    name = type(loss).__name__
    if logits.dim() != 2 or logits.shape[1] != loss.num_logits:
        raise ValueError(
            f"{name} expects logits of shape (R, {loss.num_logits}) for {loss.num_classes} "
            f"classes, got {tuple(logits.shape)}"
        )
    rows = (len(logits),)
    if gt_classes.shape != rows or gt_classes.is_floating_point():
        raise ValueError(
            f"{name} expects {rows[0]} integer labels, one a row of logits, got "
            f"{gt_classes.dtype} of shape {tuple(gt_classes.shape)}"
        )
    if weights is not None and weights.shape != rows:
        raise ValueError(f"{name} expects weights of shape {rows}, got {tuple(weights.shape)}")
    if gt_classes.device.type == "cpu" and len(gt_classes):
        low, high = int(gt_classes.min()), int(gt_classes.max())
        if low < 0 or high > loss.num_classes:
            raise ValueError(
                f"{name} got labels from {low} to {high}; legal are 0 to "
                f"{loss.num_classes - 1} for classes and {loss.num_classes} for background"
            )


def check_stats(class_stats: Any, num_classes: int) -> None:
    """Raise ValueError unless the class statistics are those of K classes."""
    for field in ("image_count", "instance_count"):
        count = len(getattr(class_stats, field))
        if count != num_classes:
            raise ValueError(
                f"class_stats.{field} has {count} classes but num_classes is {num_classes}. Set "
                "MODEL.ROI_HEADS.NUM_CLASSES to the classes of the training set"
            )
