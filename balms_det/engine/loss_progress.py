"""Telling losses with a schedule of their own how far the training is."""

from detectron2.engine import HookBase
from torch import nn

from balms_det.losses import PairwiseBalance


def scheduled_losses(model: nn.Module) -> list[PairwiseBalance]:
    """The losses of a model, one a box predictor, that have a ``set_progress``."""
    return [module for module in model.modules() if isinstance(module, PairwiseBalance)]


class LossProgress(HookBase):
    """Before every iteration, tells each of the given losses which share of them is over."""

    def __init__(self, losses: list[PairwiseBalance]):
        self._losses = losses

    def before_step(self) -> None:
        for loss in self._losses:
            loss.set_progress(self.trainer.iter / self.trainer.max_iter)
