"""What a training step moves besides weights and optimiser, kept so that it can be put back."""

from __future__ import annotations

import copy
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn


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
