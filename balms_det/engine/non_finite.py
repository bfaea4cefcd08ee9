"""Stopping at NaN and infinity in the iteration in which they appear, or leaving that step out.

Detectron2 looks at the losses of a step alone, after its optimiser has gone on to the next. Here
losses, logits, the RPN's proposals and the gradient are looked at before the optimiser's step, in
the one transfer from the device that Detectron2 makes for its logs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from balms_det.data.count_sources import dataset_class_names
from balms_det.engine.saved_batch import save_batch
from balms_det.engine.step_fault import StepFault, describe
from balms_det.engine.step_snapshot import StepSnapshot
from balms_det.engine.step_watch import BrokenForwardError, StepWatch, watch_step

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
            where = f"is in {path}, for balms_det.engine.saved_batch.load_batch"
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
