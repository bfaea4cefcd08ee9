"""One step of meta learning: look ahead, update the learner, say how the RoIs are weighted.

Symbols: see :mod:`balms_det.meta.learners` and :mod:`balms_det.meta.hypergradient`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from balms_det.losses.core.state import join_rows, num_ranks
from balms_det.meta.hypergradient import META_LOSSES, Stage, hypergradient
from balms_det.meta.learners import MetaLearner


@dataclass(frozen=True)
class WeightedLoss:
    """The weighted classification loss of one stage: its value and its gradient by the logits."""

    value: Tensor
    grad_logits: Tensor


class MetaStep(nn.Module):
    """Owns the meta learner and its Adam; both are in its state dict.

    Calling it does what BALMS does before each step of the classifier: a virtual step on the loss
    weighted by the learner, the meta loss behind it, an Adam step of the learner. A cascade has a
    virtual step for each of its stages and one learner for all, which gets the sum of their
    gradients. With several ranks, learner and classifier move as with one rank on the joined batch
    (when every rank has as many RoIs).

    Args:
        learner: on the device of the RoIs.
        meta_loss: "paper" or "reference", see :data:`balms_det.meta.hypergradient.META_LOSSES`.
        lr: Adam's learning rate: 1e-3 in the paper, 1e-2 in the authors' code.
        betas, eps: Adam's.

    Raises:
        ValueError: another ``meta_loss``.
    """

    def __init__(
        self,
        learner: MetaLearner,
        *,
        meta_loss: str = "paper",
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        super().__init__()
        if meta_loss not in META_LOSSES:
            raise ValueError(
                f"META.LOSS must be one of {', '.join(META_LOSSES)}, got {meta_loss!r}"
            )
        self.learner = learner
        self.meta_loss = META_LOSSES[meta_loss]
        self.adam = torch.optim.Adam(learner.parameters(), lr=lr, betas=tuple(betas), eps=eps)

    def forward(
        self, stages: Sequence[Stage], optimizer: torch.optim.SGD
    ) -> tuple[list[WeightedLoss], Tensor]:
        """Update the learner and weigh the losses of the training batch with it.

        The running state of every stage's loss moves once, as in a step without a meta learner.

        Args:
            stages: the box predictors with their batches.
            optimizer: the detector's, before its step; nothing in it changes.

        Returns:
            A :class:`WeightedLoss` a stage, and the mean meta loss of the stages on this rank.
        """
        with torch.autocast(stages[0].train.logits.device.type, enabled=False):
            return self._forward(stages, optimizer)

    def _forward(
        self, stages: Sequence[Stage], optimizer: torch.optim.SGD
    ) -> tuple[list[WeightedLoss], Tensor]:
        rows = [stage.row_gradients() for stage in stages]
        joined = [join_rows(stage.train.gt_classes) for stage in stages]
        omegas = [self.learner(labels) for labels, _ in joined]
        by_omega, meta_losses = [], []
        for stage, (losses, gradients), omega, (_, start) in zip(stages, rows, omegas, joined):
            own = slice(start, start + len(losses))
            factors = omega.detach()[own].to(losses.dtype)
            gradient, meta_loss = hypergradient(
                stage, gradients, factors, optimizer, self.meta_loss
            )
            whole = torch.zeros_like(omega)
            whole[own] = gradient.to(omega.dtype)
            by_omega.append(whole)
            meta_losses.append(meta_loss)
        self._update(omegas, by_omega)
        weighted = []
        for stage, (losses, gradients), omega, (labels, start) in zip(stages, rows, omegas, joined):
            final = self.learner.after_update(labels, omega.detach())
            factors = final[start : start + len(losses)].to(losses.dtype)
            weighted.append(_weigh(stage, losses, gradients, factors))
        return weighted, torch.stack(meta_losses).mean()

    def _update(self, omegas: list[Tensor], by_omega: list[Tensor]) -> None:
        self.adam.zero_grad()
        torch.autograd.backward(omegas, by_omega)
        if num_ranks() > 1:
            # Every rank has put in the gradient by its own factors: the sum is that of the batch.
            for parameter in self.learner.parameters():
                dist.all_reduce(parameter.grad)
        self.adam.step()

    def get_extra_state(self) -> dict:
        return self.adam.state_dict()

    def set_extra_state(self, state: dict) -> None:
        self.adam.load_state_dict(state)


def _weigh(stage: Stage, losses: Tensor, gradients: Tensor, factors: Tensor) -> WeightedLoss:
    scale = stage.loss_weight / max(len(losses), 1)
    value = (losses * factors).sum() * scale
    upstream = gradients * (factors * scale).unsqueeze(1)
    return WeightedLoss(value, upstream.to(stage.train.logits.dtype))
