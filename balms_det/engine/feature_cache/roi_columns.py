"""The columns of recorded RoIs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor

from balms_det.engine.feature_cache.layout import (
    BOXES,
    EXTRA_CLASSES,
    FEATURES,
    GT_CLASSES,
    IOUS,
    OBJECTS,
    column,
)
from balms_det.losses import ROI_FIELDS
from balms_det.modeling.roi_context import describe_rois


@dataclass
class Recorded:
    """One example.

    Attributes:
        columns: by full name, as in a shard, but objects count from 0.
        sampled: see :class:`balms_det.engine.feature_cache.manifest.ShardEntry`.
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
