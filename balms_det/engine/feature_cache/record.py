"""Runs a detector and keeps what its classifiers read.

Symbols: see :mod:`balms_det.engine.feature_cache.layout`. Proposals, their matching with the ground
truth, labels and features are the detector's own: its methods run, and here is only noted what
passes through them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from balms_det.engine.feature_cache.attributes import replaced
from balms_det.engine.feature_cache.roi_columns import Recorded, record_columns
from balms_det.engine.feature_cache.sampling import ForegroundAndSome
from balms_det.modeling.calibration import box_predictors


@contextlib.contextmanager
def classifier_inputs(predictors: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The features that box predictors read in the last forward pass, S tensors (R, D)."""
    seen: list[Tensor] = [torch.empty(0)] * len(predictors)

    def note(stage: int):
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[stage] = inputs[0].detach().flatten(start_dim=1)

        return hook

    handles = [p.register_forward_pre_hook(note(stage)) for stage, p in enumerate(predictors)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def as_frozen(model: nn.Module) -> None:
    """Put a model into the mode of stage 2: it trains, but nothing frozen moves or is random."""
    model.train()
    for module in model.modules():
        if isinstance(module, (_BatchNorm, _DropoutNd)):
            module.eval()


class TrainingRecorder:
    """Records the RoIs of training examples: all foreground, and some background.

    Use it as a context manager; inside, the model computes neither losses nor masks.

    Args:
        model: a ``GeneralizedRCNN`` with box predictors of Detectron2 or balms_det.
        background: background RoIs to keep of an image, -1 for all.
        amp: whether features are computed in half precision, as training does it.
    """

    def __init__(self, model: nn.Module, background: int, amp: bool = False):
        self.model = model
        self.predictors = box_predictors(model)
        self.num_classes = self.predictors[0].num_classes
        self.sampler = ForegroundAndSome(model.roi_heads, background)
        self.amp = amp
        self._stack = contextlib.ExitStack()
        self._labelled: dict[int, Instances] = {}

    def __enter__(self) -> TrainingRecorder:
        as_frozen(self.model)
        enter = self._stack.enter_context
        enter(torch.no_grad())
        enter(EventStorage())
        heads = self.model.roi_heads
        enter(replaced(self.model, vis_period=0))
        enter(replaced(heads, _sample_proposals=self.sampler, mask_on=False, keypoint_on=False))
        generator = self.model.proposal_generator
        if isinstance(generator, RPN):
            no_labels = {"label_and_sample_anchors": lambda *_: (None, None)}
            enter(replaced(generator, losses=lambda *_: {}, **no_labels))
        for stage, predictor in enumerate(self.predictors):
            enter(replaced(predictor, losses=self._note(stage)))
        self._features = enter(classifier_inputs(self.predictors))
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()

    def _note(self, stage: int):
        def losses(_predictions, proposals: list[Instances]) -> dict:
            (self._labelled[stage],) = proposals
            return {}

        return losses

    def __call__(self, example: dict, seed: int) -> Recorded:
        """Record one example.

        Args:
            example: with ``image`` and ``instances``.
            seed: of the choice of background RoIs.
        """
        self.sampler.generator.manual_seed(seed)
        targets = _without_masks(example["instances"])
        with self._precision():
            self.model([{**example, "instances": targets}])
        stages = range(len(self.predictors))
        features = [self._features[stage].cpu() for stage in stages]
        rois = [self._labelled[stage].to("cpu") for stage in stages]
        return record_columns(features, rois, targets, self.num_classes, self.sampler.sampled)

    def _precision(self) -> contextlib.AbstractContextManager:
        if self.amp:
            return torch.autocast(self.model.device.type)
        return contextlib.nullcontext()


def _without_masks(targets: Instances) -> Instances:
    # Detectron2 copies every field for every RoI, and a mask may have the size of its image.
    fields = {"gt_boxes": targets.gt_boxes, "gt_classes": targets.gt_classes}
    return Instances(targets.image_size, **fields)
