"""Runs a detector and keeps what its classifiers read.

Symbols: see :mod:`balms_det.features.manifest`. Proposals, their matching with the ground
truth, labels and features are the detector's own: its methods run, and here is only noted what
passes through them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Instances
from detectron2.structures.boxes import matched_pairwise_iou
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from balms_det.features.manifest import (
    BOXES,
    EXTRA_CLASSES,
    FEATURES,
    GT_CLASSES,
    IOUS,
    OBJECTS,
    column,
)
from balms_det.losses import ROI_FIELDS
from balms_det.modeling.calibration import box_predictors
from balms_det.modeling.roi_context import describe_rois
from balms_det.utils.patching import replaced


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


@dataclass
class Recorded:
    """One example.

    Attributes:
        columns: by full name, as in a shard, but objects count from 0.
        sampled: see :class:`balms_det.features.manifest.ShardEntry`.
    """

    columns: dict[str, Tensor]
    sampled: list[tuple[float, float]]


def record_columns(
    features: Sequence[Tensor],
    rois: Sequence[Instances],
    targets: Instances,
    num_classes: int,
    sampled: tuple[int, int],
) -> Recorded:
    """The columns of one example.

    Args:
        features: (R, D) of every stage.
        rois: of every stage, with ``proposal_boxes``, ``gt_classes`` and, where there are objects,
            ``gt_boxes``.
        targets: the ground truth.
        num_classes: K.
        sampled: (foreground, all) RoIs that the detector would have sampled in the first stage.
    """
    columns: dict[str, Tensor] = {}
    for stage, (read, labelled) in enumerate(zip(features, rois)):
        own = {FEATURES: read, **_labels(labelled, targets, num_classes)}
        columns.update({column(stage, name): values for name, values in own.items()})
    foreground = [labelled.gt_classes < num_classes for labelled in rois]
    return Recorded(columns, _sampled(foreground, *sampled))


def _labels(rois: Instances, targets: Instances, num_classes: int) -> dict[str, Tensor]:
    describe_rois([rois], [targets], num_classes, ROI_FIELDS)
    boxes = rois.proposal_boxes
    if rois.has("gt_boxes") and len(targets):
        ious = matched_pairwise_iou(boxes, rois.gt_boxes)
    else:
        ious = torch.zeros(len(rois))
    return {
        GT_CLASSES: rois.gt_classes.int(),
        IOUS: ious.float(),
        BOXES: boxes.tensor.float(),
        OBJECTS: rois.object_ids.long(),
        EXTRA_CLASSES: _extra_classes(rois.all_classes, rois.gt_classes),
    }


def _extra_classes(all_classes: Tensor, gt_classes: Tensor) -> Tensor:
    """(R, M) the classes besides ``gt_classes``, padded with -1; M is at least 1."""
    others = torch.nn.functional.pad(all_classes, (0, 1))
    others[torch.arange(len(others)), gt_classes] = False
    rows, classes = others.nonzero(as_tuple=True)
    count = others.sum(dim=1)
    width = max(int(count.max()), 1) if len(count) else 1
    extra = torch.full((len(others), width), -1, dtype=torch.int32)
    extra[rows, torch.arange(len(rows)) - (count.cumsum(0) - count)[rows]] = classes.int()
    return extra


def _sampled(
    foreground: Sequence[Tensor], num_foreground: int, num_all: int
) -> list[tuple[float, float]]:
    """What the detector would have sampled, by stage.

    In the first stage the numbers are exact. A later stage has the same RoIs with other labels, of
    which the cached ones are a fair sample; an image whose RoIs are not the same, because boxes
    came out empty, is left out.
    """
    first = foreground[0]
    share = num_foreground / max(int(first.sum()), 1)
    rest = (num_all - num_foreground) / max(int((~first).sum()), 1)
    weights = torch.where(first, share, rest).double()
    sampled = [(float(num_foreground), float(num_all))]
    for own in foreground[1:]:
        if len(own) == len(first):
            sampled.append((float(weights[own].sum()), float(weights.sum())))
        else:
            sampled.append((0.0, 0.0))
    return sampled


class ForegroundAndSome:
    """Stands in for a head's ``_sample_proposals``: all foreground, and some background RoIs.

    Args:
        heads: Detectron2's ROI heads, whose own sampler says which RoIs are which.
        background: how many background RoIs, -1 for all.

    Attributes:
        generator: of the choice of background RoIs; on the CPU, so that it does not depend on the
            device.
        sampled: (foreground, all) RoIs that the head's own sampler took of the last image.
    """

    def __init__(self, heads: nn.Module, background: int):
        self.heads = heads
        self.original = heads._sample_proposals
        self.background = background
        self.generator = torch.Generator()
        self.sampled = (0, 0)

    def __call__(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``ROIHeads._sample_proposals``; the RoIs come in the order of the proposals."""
        arguments = (matched_idxs, matched_labels, gt_classes)
        _, taken = self.original(*arguments)
        self.sampled = (int((taken < self.heads.num_classes).sum()), len(taken))
        everything = {"batch_size_per_image": len(matched_idxs), "positive_fraction": 1.0}
        with replaced(self.heads, **everything):
            index, labels = self.original(*arguments)
        index, order = index.sort()
        labels = labels[order]
        kept = self._choose(labels < self.heads.num_classes)
        return index[kept], labels[kept]

    def _choose(self, foreground: Tensor) -> Tensor:
        """Indices of the RoIs to keep, ascending."""
        background = (~foreground).nonzero().flatten()
        if 0 <= self.background < len(background):
            drawn = torch.randperm(len(background), generator=self.generator)[: self.background]
            background = background[drawn.to(background.device)]
        return torch.cat([foreground.nonzero().flatten(), background]).sort()[0]
