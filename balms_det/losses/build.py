"""Losses by name."""

from __future__ import annotations

from typing import Any

from balms_det.losses.base import BOX_LOSS_REGISTRY, BoxLoss
from balms_det.losses.keywords import check_keywords


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
