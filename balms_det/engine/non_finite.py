"""Stopping at NaN and infinity in the iteration in which they appear, or leaving that step out.

Detectron2 looks at the losses of a step alone, after its optimiser has gone on to the next. Here
losses, logits, the RPN's proposals and the gradient are looked at before the optimiser's step, in
the one transfer from the device that Detectron2 makes for its logs.

Symbols: ``R`` RoIs, ``L`` logits, ``K`` foreground classes; label ``K`` is background.

"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from balms_det.data.class_stats import dataset_class_names
from balms_det.engine.step_watch import (
    BrokenForwardError,
    HeadOutput,
    StepWatch,
    save_batch,
    watch_step,
)
from balms_det.utils.trust import printable

logger = logging.getLogger(__name__)

ACTIONS = ("stop", "skip")
# What is looked at, in the order of the flags that the ranks share.
PARTS = ("loss", "logits", "proposals", "gradient")


class NonFiniteStepError(FloatingPointError):
    """A step has NaN or infinity in it. The message says where, and names the saved batch."""


class _FaultFoundError(Exception):
    def __init__(self, fault: StepFault):
        super().__init__(fault)
        self.fault = fault


class NonFiniteGuard(HookBase):
    """Checks every step of a ``SimpleTrainer``, also with AMP or a meta step, before it is taken.

    All ranks decide alike. With a gradient scaler, infinity in the gradient is what the scaler is
    for, and a fault only where its scale has come down to 1. A step that is left out leaves
    weights, optimiser, running state and meta learner as they were, and counts in
    ``non_finite/skipped``. An error that the forward pass raises by itself (a cascade whose boxes
    are NaN) ends a run on several ranks in any case: the others are waiting for the rank it is on.

    Args:
        output_dir: the batch is saved in its folder ``non_finite``, by every rank its own.
        class_names: K names, or None.
        skip: leave such steps out in place of stopping.
        max_in_a_row: stop when so many have been left out one after another.
    """

    def __init__(
        self,
        output_dir: str,
        class_names: Sequence[str] | None = None,
        *,
        skip: bool = False,
        max_in_a_row: int = 10,
    ):
        self.output_dir = Path(output_dir)
        self.class_names = class_names
        self.skip = skip
        self.max_in_a_row = max_in_a_row
        self.skipped = self.in_a_row = 0

    def before_train(self) -> None:
        inner = self._inner = getattr(self.trainer, "_trainer", self.trainer)
        model = inner.model
        self._detector = model.module if isinstance(model, DistributedDataParallel) else model
        modules = self._detector.modules()
        self._predictors = [m for m in modules if isinstance(m, FastRCNNOutputLayers)]
        self._trained = [p for p in self._detector.parameters() if p.requires_grad]
        self._unguarded_step, self._unguarded_write = inner.run_step, inner._write_metrics
        # Attributes of the instance hide the methods until after the training.
        inner.run_step, inner._write_metrics = self._run_step, self._write_metrics

    def after_train(self) -> None:
        if "run_step" in vars(self._inner):
            del self._inner.run_step, self._inner._write_metrics

    def state_dict(self) -> dict:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row} if self.skip else {}

    def load_state_dict(self, state: dict) -> None:
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def _run_step(self) -> None:
        before = StepSnapshot(self._detector, self._inner) if self.skip else None
        with watch_step(self._detector, self._predictors) as step:
            self._step = step
            try:
                self._unguarded_step()
            except _FaultFoundError as found:
                fault = found.fault
            except BrokenForwardError as error:
                fault = StepFault({}, (), str(error))
            else:
                self.in_a_row = 0
                return
            finally:
                self._step = None  # it holds on to the batch
        words = describe(fault, step, self._detector, self.class_names)
        alone = bool(fault.error) and comm.get_world_size() > 1
        if before is None or alone:
            self._stop(step, fault, words)
        before.restore()
        self._inner.optimizer.zero_grad()
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        get_event_storage().put_scalar("non_finite/skipped", self.skipped, smoothing_hint=False)
        if self.in_a_row >= self.max_in_a_row:
            self._stop(step, fault, f"{words} This is step {self.in_a_row} in a row that is not.")
        logger.warning("Iteration %d is left out: not finite: %s", self._inner.iter, words)

    def _stop(self, step: StepWatch, fault: StepFault, words: str) -> None:
        iteration, rank = self._inner.iter, comm.get_rank()
        path = self.output_dir / "non_finite" / f"iteration_{iteration:07d}_rank{rank}.pth"
        facts = {"iteration": iteration, "rank": rank, "losses": fault.losses, "message": words}
        try:
            save_batch(path, step.inputs, **facts)
            where = f"is in {path}, for balms_det.engine.step_watch.load_batch"
        except OSError as error:  # a full disk must not hide what went wrong
            where = f"could not be saved in {path} ({error})"
        raise NonFiniteStepError(
            f"Iteration {iteration} is not finite: {words} The batch {where}. Look at its images "
            'and boxes, or lower SOLVER.BASE_LR. SOLVER.NON_FINITE.ACTION: "skip" leaves such '
            "steps out."
        )

    def _write_metrics(self, losses: dict[str, Tensor], *args: Any, **kwargs: Any) -> None:
        """What the trainer calls between the gradient and the optimiser's step."""
        values, found = self._look(losses)
        if found:
            raise _FaultFoundError(StepFault(values, found))
        # On the host already, in the precision that they would be read in.
        read = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        further = getattr(self._inner, "further_losses", {})
        further.update({name: read[name] for name in further})
        self._unguarded_write({name: read[name] for name in losses}, *args, **kwargs)

    @torch.no_grad()
    def _look(self, losses: dict[str, Tensor]) -> tuple[dict[str, float], list[str]]:
        """Values of the losses, and which of ``PARTS`` are not finite on any rank."""
        named = {**losses, **getattr(self._inner, "further_losses", {})}
        values = torch.stack([loss.detach().double().reshape(()) for loss in named.values()])
        sound = _sound(self._step, self._trained, values.device)
        flags = (~torch.stack([torch.isfinite(values).all(), *sound])).to(values)
        if comm.get_world_size() > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        *numbers, scale = torch.cat([values, flags, self._scale(values)]).tolist()
        bad = [part for part, flag in zip(PARTS, numbers[len(values) :]) if flag]
        if bad == ["gradient"] and scale > 1:
            bad = []  # the scaler leaves this step out itself, and lowers its scale
        return dict(zip(named, numbers)), bad

    def _scale(self, like: Tensor) -> Tensor:
        scaler = getattr(self._inner, "grad_scaler", None)
        one = like.new_ones(1)
        return one if scaler is None or not scaler.is_enabled() else scaler.scale(one)


def _sound(step: StepWatch, trained: list[nn.Parameter], device: torch.device) -> list[Tensor]:
    """Whether logits, proposals and gradient are finite: bool tensors on the device."""
    true = torch.ones((), dtype=torch.bool, device=device)
    logits = [torch.isfinite(head.logits).all() for head in step.heads]
    gradients = [p.grad for p in trained if p.grad is not None]
    # The fastest way through a gradient, a tenth of isfinite(). Numbers above 1e19, whose square is
    # infinite, count as such.
    norms = torch._foreach_norm(gradients) if gradients else []
    sound = [torch.isfinite(norm) for norm in norms]
    return [torch.stack([true, *part]).all() for part in (logits, step.sound_proposals, sound)]


def build_non_finite_guard(cfg: CfgNode) -> NonFiniteGuard:
    """The guard that ``SOLVER.NON_FINITE`` describes.

    Raises:
        ValueError: an unknown action.
    """
    node = cfg.SOLVER.NON_FINITE
    if node.ACTION not in ACTIONS:
        raise ValueError(
            f"SOLVER.NON_FINITE.ACTION must be one of {', '.join(ACTIONS)}, got {node.ACTION!r}"
        )
    names = dataset_class_names(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None
    return NonFiniteGuard(
        cfg.OUTPUT_DIR, names, skip=node.ACTION == "skip", max_in_a_row=node.MAX_IN_A_ROW
    )


class StepSnapshot:
    """Running state before a step: buffers (of losses, of normalisation) and the meta learner.

    They are small. Weights and optimiser do not move in a step that is left out.

    Args:
        detector: the model, without DDP around it.
        trainer: its ``meta_step``, if it has one, is a module.
    """

    def __init__(self, detector: nn.Module, trainer: Any):
        self._buffers = [
            (module, name, buffer.clone())
            for module in detector.modules()
            if not isinstance(module, FrozenBatchNorm2d)
            for name, buffer in module.named_buffers(recurse=False)
        ]
        self._meta_step = getattr(trainer, "meta_step", None)
        if self._meta_step is not None:
            self._meta_state = copy.deepcopy(self._meta_step.state_dict())

    @torch.no_grad()
    def restore(self) -> None:
        for module, name, value in self._buffers:
            getattr(module, name).copy_(value)
        if self._meta_step is not None:
            self._meta_step.load_state_dict(self._meta_state)


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
