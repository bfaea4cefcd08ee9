"""What every box loss checks of its arguments. Symbols: see :mod:`balms_det.losses.base`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from balms_det.losses.base import BoxLoss


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
