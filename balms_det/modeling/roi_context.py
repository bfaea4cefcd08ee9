"""What a :class:`balms_det.losses.ContextLoss` is told of the sampled RoIs, on its way there.

Symbols: see :mod:`balms_det.losses.core.context`. Detectron2's samplers hand on the class and the
box of the object that each RoI was matched to; all else follows from these and the ground truth.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from detectron2.layers import cat
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses import ROI_FIELDS, ContextLoss

#: Ground-truth boxes that overlap this much (IoU) are of one object, whatever their classes:
#: LVIS has a box a class where an object carries several.
SAME_OBJECT_IOU = 0.9


@torch.no_grad()
def describe_rois(
    rois: list[Instances], targets: list[Instances], num_classes: int, wanted: Collection[str]
) -> list[Instances]:
    """Set the ``wanted`` fields on the sampled RoIs of every image, in place, and return them.

    Args:
        rois: with ``gt_classes`` and, where the image has objects, ``gt_boxes``.
        targets: the images' ground truth, with ``gt_classes`` and ``gt_boxes``.
        num_classes: K.
        wanted: names of :data:`balms_det.losses.ROI_FIELDS`.

    Raises:
        ValueError: another name.
    """
    unknown = sorted(set(wanted) - set(ROI_FIELDS))
    if unknown:
        raise ValueError(f"no field {unknown[0]!r} of RoIs is known; there are {ROI_FIELDS}")
    first = 0  # objects are numbered over the batch
    for sampled, objects in zip(rois, targets):
        if wanted:
            matched = _matched_objects(sampled, objects)
            foreground = sampled.gt_classes < num_classes
        if "object_ids" in wanted:
            sampled.set("object_ids", torch.where(foreground, first + matched, -1))
        if "all_classes" in wanted:
            classes = _classes_of_objects(objects, num_classes)
            # One row more for images without objects, whose RoIs are all background.
            classes = F.pad(classes, (0, 0, 0, 1))
            sampled.set("all_classes", classes[matched] & foreground.unsqueeze(1))
        first += len(objects)
    return rois


def read_context(loss: ContextLoss, rois: list[Instances]) -> dict[str, Tensor]:
    """The fields that ``loss`` reads, over all images; those that no sampler has set are absent."""
    return {
        name: cat([image.get(name) for image in rois], dim=0)
        for name in loss.reads
        if rois and all(image.has(name) for image in rois)
    }


def _matched_objects(rois: Instances, objects: Instances) -> Tensor:
    """The index of the object that each RoI was matched to, (R,); without meaning on background."""
    if len(objects) == 0:
        return torch.zeros_like(rois.gt_classes)
    # Detectron2 drops the index, but the box and class of the object are copies, bit by bit.
    same = (rois.gt_boxes.tensor[:, None] == objects.gt_boxes.tensor[None]).all(dim=2)
    same &= rois.gt_classes[:, None] == objects.gt_classes[None]
    return same.int().argmax(dim=1)


def _classes_of_objects(objects: Instances, num_classes: int) -> Tensor:
    """Every class that each object carries, (G, K) boolean."""
    one_hot = F.one_hot(objects.gt_classes, num_classes).float()
    same = pairwise_iou(objects.gt_boxes, objects.gt_boxes) >= SAME_OBJECT_IOU
    return (same.float() @ one_hot + one_hot) > 0
