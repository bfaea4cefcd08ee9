"""Saying what is not finite in a training step, and which class is worst.

Symbols: ``R`` RoIs, ``L`` logits, ``K`` foreground classes; label ``K`` is background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from balms_det.engine.step_watch import HeadOutput, StepWatch
from balms_det.trust import printable


@dataclass(frozen=True)
class StepFault:
    """What was not finite.

    Attributes:
        losses: value of each loss on this rank.
        found: which parts are not finite on any rank, of "loss", "logits", "proposals", "gradient";
            empty where the forward pass raised an error.
        error: that error's text.
    """

    losses: dict[str, float]
    found: Sequence[str]
    error: str = ""


_PARTS = {"logits": "logits of the box classifier", "proposals": "boxes or scores of the RPN"}


def describe(
    fault: StepFault, step: StepWatch, model: nn.Module, class_names: Sequence[str] | None
) -> str:
    """One paragraph: what, on which images, which class."""
    what = [fault.error] if fault.error else []
    what += [f"{k} = {value}" for k, value in fault.losses.items() if not math.isfinite(value)]
    if "loss" in fault.found and not what:
        what.append("a loss on another rank")
    what += [words for part, words in _PARTS.items() if part in fault.found]
    if "gradient" in fault.found:
        what.append(_bad_gradients(model))
    images = ", ".join(image_names(step))
    return f"{'; '.join(what)}. Images: {images or 'none'}. {worst_class(step, class_names)}"


def image_names(step: StepWatch) -> list[str]:
    """Ids of the step's images; file names where there is no id."""
    names = []
    batches = (batch for batch in step.inputs if isinstance(batch, list | tuple))
    for record in (record for batch in batches for record in batch if isinstance(record, dict)):
        name = record.get("image_id", Path(str(record.get("file_name", "?"))).name)
        names.append(printable(str(name)))
    return list(dict.fromkeys(names))


def _bad_gradients(model: nn.Module) -> str:
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    if not bad:
        return "the norm of the gradient"
    more = f" and {len(bad) - 1} others" if len(bad) > 1 else ""
    return f"gradient of {bad[0]}{more}"


def worst_class(step: StepWatch, class_names: Sequence[str] | None) -> str:
    """A sentence about the class whose logits, or gradient, are not finite, or else largest."""
    heads = [head for head in step.heads if head.logits.numel()]
    if not heads:
        return "No class can be named: the box classifier had not been reached."
    for head in heads:
        if not torch.isfinite(head.logits).all():
            return _worst_logits(head, class_names)
    for head in heads:
        gradient = getattr(getattr(head.predictor.cls_score, "weight", None), "grad", None)
        if gradient is not None and not torch.isfinite(gradient).all():
            column = int((~torch.isfinite(gradient)).sum(1).argmax())
            return f"Worst class: {_name(head, column, class_names)}, whose gradient is not finite."
    head = max(heads, key=lambda head: head.logits.abs().max().item())
    column = int(head.logits.abs().amax(0).argmax())
    largest = head.logits[:, column].abs().max().item()
    return (
        f"Worst class: {_name(head, column, class_names)}, with the largest logit ({largest:.3g})."
    )


def _worst_logits(head: HeadOutput, class_names: Sequence[str] | None) -> str:
    bad = ~torch.isfinite(head.logits)
    columns, rois = bad.sum(0), len(bad)
    if columns.min() < columns.max():
        column = int(columns.argmax())
        name = _name(head, column, class_names)
        return f"Worst class: {name}, with {int(columns[column])} of {rois} logits not finite."
    rows = bad.any(1)
    label = int(_most_common(head.gt_classes[rows], head.predictor.num_classes))
    return (
        f"Worst class: {_class_name(label, head.predictor.num_classes, class_names)}, of which are "
        f"the most of the {int(rows.sum())} of {rois} RoIs whose logits are all not finite."
    )


def _most_common(labels: Tensor, background: int) -> Tensor:
    foreground = labels[labels != background]
    return torch.bincount(foreground if len(foreground) else labels).argmax()


def _name(head: HeadOutput, column: int, class_names: Sequence[str] | None) -> str:
    """What a column of the logits stands for."""
    num_classes = head.predictor.num_classes
    loss = getattr(head.predictor, "cls_loss", None)
    columns = list(range(num_classes)) if loss is None else loss.class_columns.tolist()
    if column in columns:
        return _class_name(columns.index(column), num_classes, class_names)
    softmax = head.logits.shape[1] == num_classes + 1
    return "background" if softmax else f"none of the classes (output {column})"


def _class_name(label: int, num_classes: int, class_names: Sequence[str] | None) -> str:
    if label == num_classes:
        return "background"
    name = printable(class_names[label]) if class_names else "without a name"
    return f"{name} (label {label})"
