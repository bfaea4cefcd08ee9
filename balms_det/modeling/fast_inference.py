"""Detectron2's post-processing of box predictions, exactly, without looking at all candidates.

Symbols: ``R`` proposals of an image, ``K`` foreground classes; a candidate is a (proposal, class)
pair whose score exceeds the threshold, and candidates are ranked by score. With a threshold of
1e-4, as on LVIS, nearly all R x K pairs are candidates, and Detectron2 runs non-maximum suppression
(NMS) on every one of them to keep ``topk``, the 300 best.

Whether a candidate survives NMS depends on candidates of its class that rank higher, and on nothing
else. So the survivors among the best M candidates are the best survivors of all: we take M a little
larger than ``topk``, and grow it until ``topk`` survive.

"Exactly" needs care in two places, both of which follow from torchvision's ``batched_nms``:

- Up to a number of candidates it does not separate classes but shifts the boxes of each class by an
  offset, and float32 rounds the shifted boxes. There we call it as Detectron2 does.
- Above it, the survivors are sorted by a sort that is not stable: the order of equal scores depends
  on all survivors. When equal scores are among the ``topk``, all candidates are suppressed and that
  same sort is run.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.roi_heads import fast_rcnn
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import nms

# The most candidates for which torchvision's batched_nms shifts boxes, in any of its versions: from
# there on it suppresses each class by itself. CPU, and all other devices.
SHIFTED_CPU = 1000
SHIFTED_CUDA = 25_000

# The first M over topk, the smallest M, and by how much M may grow at a time.
FIRST = 3
SMALLEST = 100
GROWTH = (2, 8)


class Candidates(NamedTuple):
    """Candidates in row-major order of (proposal, class), as Detectron2 numbers them."""

    indices: Tensor  # (M, 2): proposal and class
    boxes: Tensor  # (M, 4), clipped to the image
    scores: Tensor  # (M,)

    def take(self, order: Tensor) -> Candidates:
        return Candidates(*(field[order] for field in self))


def fast_rcnn_inference(
    boxes: list[Tensor],
    scores: list[Tensor],
    image_shapes: list[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[Tensor]]:
    """Detectron2's ``fast_rcnn_inference``: the same arguments, the same output, order included.

    Args:
        boxes: of each image, (R, 4K) or, class-agnostic, (R, 4), in pixels (x1, y1, x2, y2).
        scores: of each image, (R, K + 1), background last.
        image_shapes: (height, width) of each image, in pixels.
        score_thresh: candidates have a higher score.
        nms_thresh: a box that overlaps a better one of its class by a higher IoU is dropped.
        topk_per_image: detections of an image at most; negative for all of them.

    Returns:
        For each image, its detections by falling score (``pred_boxes``, ``scores``,
        ``pred_classes``), and the (detections,) proposals that they come from, numbered after rows
        with a NaN or an infinity were dropped, as Detectron2 does.
    """
    limits = score_thresh, nms_thresh, topk_per_image
    if torch.jit.is_tracing():  # a number of rounds that depends on data cannot be traced
        return fast_rcnn.fast_rcnn_inference(boxes, scores, image_shapes, *limits)
    images = zip(boxes, scores, image_shapes)
    results = [_single_image(*image, *limits) for image in images]
    return [instances for instances, _ in results], [proposals for _, proposals in results]


def _single_image(boxes, scores, image_shape, score_thresh, nms_thresh, topk):
    boxes, scores = _finite_rows(boxes, scores)
    scores = scores[:, :-1]
    boxes = boxes.reshape(len(boxes), boxes.shape[1] // 4, 4)
    wanted = scores > score_thresh
    count = int(wanted.count_nonzero())
    if count <= (SHIFTED_CPU if scores.device.type == "cpu" else SHIFTED_CUDA):
        found = _gather(boxes, scores, wanted, image_shape)
        keep = batched_nms(found.boxes, found.scores, found.indices[:, 1], nms_thresh)
        best = found.take(keep[:topk] if topk >= 0 else keep)
    else:
        best = _best_of_many(boxes, scores, image_shape, nms_thresh, topk, count)
        if best is None:
            found = _gather(boxes, scores, wanted, image_shape)
            survivors = found.take(_suppress(found, nms_thresh))
            order = survivors.scores.sort(descending=True)[1]  # Detectron2's, which is not stable
            best = survivors.take(order[:topk] if topk >= 0 else order)
    result = Instances(image_shape)
    result.pred_boxes = Boxes(best.boxes)
    result.scores = best.scores
    result.pred_classes = best.indices[:, 1]
    return result, best.indices[:, 0]


def _finite_rows(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    # A sum is finite only if all of its terms are: one quick pass instead of several.
    if torch.isfinite(boxes.detach().sum() + scores.detach().sum()):
        return boxes, scores
    valid = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
    return boxes[valid], scores[valid]


def _gather(boxes: Tensor, scores: Tensor, wanted: Tensor, image_shape) -> Candidates:
    """The candidates where ``wanted``, (R, K) bool, is true."""
    indices = wanted.nonzero()
    rows, classes = indices.unbind(1)
    chosen = Boxes(boxes[rows, classes] if boxes.shape[1] > 1 else boxes[rows, 0])  # in float32
    chosen.clip(image_shape)
    return Candidates(indices, chosen.tensor, scores[rows, classes])


def _best_of_many(boxes, scores, image_shape, nms_thresh, topk, count) -> Candidates | None:
    """The ``topk`` best survivors, or None when all candidates have to be looked at."""
    size = max(FIRST * topk, SMALLEST)
    flat = scores.detach().reshape(-1)
    while topk >= 0 and 2 * size <= count:
        # All candidates of the last score are taken in, so that the outcome of ties cannot depend
        # on how topk() breaks them.
        threshold = flat.topk(size, sorted=True)[0][-1]
        found = _gather(boxes, scores, scores >= threshold, image_shape)
        survivors = found.take(_suppress(found, nms_thresh))
        if len(survivors.scores) >= topk:
            ranked, order = survivors.scores.sort(descending=True, stable=True)
            ranked = ranked[: topk + 1]
            tied = bool((ranked[1:] == ranked[:-1]).any())
            return None if tied else survivors.take(order[:topk])
        needed = 1.5 * topk / len(survivors.scores)
        size = int(size * min(max(needed, GROWTH[0]), GROWTH[1]))
    return None


def _suppress(found: Candidates, nms_thresh: float) -> Tensor:
    """Rising positions of the candidates that survive the NMS of their class."""
    classes, order = found.indices[:, 1].sort(stable=True)
    sizes = classes.unique_consecutive(return_counts=True)[1].tolist()
    groups = order.split(sizes)
    boxes = found.boxes[order].split(sizes)
    scores = found.scores[order].split(sizes)
    keep = [
        group[nms(*those, nms_thresh)] if len(group) > 1 else group
        for group, *those in zip(groups, boxes, scores)
    ]
    return torch.cat(keep).sort()[0]
