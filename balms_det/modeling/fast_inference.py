"""Detectron2's post-processing of box predictions, exactly, without looking at all candidates.

Symbols: ``R`` proposals of an image, ``K`` foreground classes; a candidate is a (proposal, class)
pair whose score exceeds the threshold. With a threshold of 1e-4, as on LVIS, nearly all R x K pairs
are candidates, and Detectron2 runs non-maximum suppression (NMS) on every one of them to keep
``topk``, the 300 best.

Whether a candidate survives NMS depends on better candidates of its class, and on nothing else. So
candidates are suppressed in blocks, from the best one down, until ``topk`` of them survive.

"Exactly" needs care in two places, both of which follow from torchvision's ``batched_nms``:

- Up to a number of candidates it does not separate classes but shifts the boxes of each class by an
  offset, and float32 rounds the shifted boxes. There we call it as Detectron2 does.
- Above it, survivors are sorted by a sort that is not stable: the order of equal scores depends on
  all survivors. When equal scores are among the ``topk``, all candidates are suppressed, and that
  same sort is run.

On a CPU suppression costs by the box. On a GPU it costs by the call, of which a class that has
several candidates needs one, for a call waits for the GPU, however few boxes it has.

"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.roi_heads import fast_rcnn
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import nms

from balms_det.losses.core.functional import on_cpu, rank_in_class

# The most candidates for which torchvision's batched_nms shifts boxes, in any of its versions: from
# there on it suppresses each class by itself. CPU, and all other devices.
SHIFTED_CPU = 1000
SHIFTED_CUDA = 25_000

# The candidates that are ranked, over topk.
RANKED = 16


class Candidates(NamedTuple):
    indices: Tensor  # (M, 2): proposal and class
    boxes: Tensor  # (M, 4), clipped to the image
    scores: Tensor  # (M,)

    def take(self, which: Tensor | slice) -> Candidates:
        return Candidates(*(field[which] for field in self))


class Image(NamedTuple):
    """The predictions for one image."""

    boxes: Tensor  # (R, K, 4), or (R, 1, 4) when they are class-agnostic
    scores: Tensor  # (R, K)
    shape: tuple[int, int]  # (height, width)

    def gather(self, wanted: Tensor) -> Candidates:
        """The candidates where ``wanted``, (R, K) bool, is true, by proposal, then class."""
        indices = wanted.nonzero()
        rows, classes = indices.unbind(1)
        boxes = Boxes(self.boxes[rows, classes if self.boxes.shape[1] > 1 else 0])
        boxes.clip(self.shape)
        return Candidates(indices, boxes.tensor, self.scores[rows, classes])

    def best(self, count: int) -> Candidates:
        """The ``count`` best candidates, and those that equal the last of them, ranked."""
        last = self.scores.detach().flatten().topk(count)[0][-1]
        found = self.gather(self.scores >= last)
        return found.take(found.scores.sort(descending=True, stable=True)[1])


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

    Raises:
        ValueError: boxes and scores of an image are not of these shapes.
    """
    limits = score_thresh, nms_thresh, topk_per_image
    if torch.jit.is_tracing():  # a number of rounds that depends on data cannot be traced
        return fast_rcnn.fast_rcnn_inference(boxes, scores, image_shapes, *limits)
    images = zip(boxes, scores, image_shapes)
    results = [_single_image(*image, *limits) for image in images]
    return [instances for instances, _ in results], [proposals for _, proposals in results]


def _single_image(boxes, scores, image_shape, score_thresh, nms_thresh, topk):
    _check_shapes(boxes, scores)
    boxes, scores = _finite_rows(boxes, scores)
    boxes = boxes.reshape(len(boxes), boxes.shape[1] // 4, 4)
    image = Image(boxes, scores[:, :-1], image_shape)
    wanted = image.scores > score_thresh
    shifted = SHIFTED_CPU if scores.device.type == "cpu" else SHIFTED_CUDA
    count = wanted.numel() if wanted.numel() <= shifted else int(wanted.count_nonzero())
    if count <= shifted:
        found = image.gather(wanted)
        keep = batched_nms(found.boxes, found.scores, found.indices[:, 1], nms_thresh)
        best = found.take(keep[:topk] if topk >= 0 else keep)
    elif all_at_once(image.scores, count, topk):
        best = _best_of_all(None, image.gather(wanted), nms_thresh, topk)
    else:
        best = _best_of_many(image, wanted, count, nms_thresh, topk)
    result = Instances(image_shape)
    result.pred_boxes = Boxes(best.boxes)
    result.scores = best.scores
    result.pred_classes = best.indices[:, 1]
    return result, best.indices[:, 0]


def _check_shapes(boxes: Tensor, scores: Tensor) -> None:
    classes = scores.shape[1] - 1
    if len(boxes) != len(scores) or boxes.shape[1] not in (4, 4 * classes):
        raise ValueError(
            f"scores of shape {tuple(scores.shape)} are those of {classes} classes and background: "
            f"boxes have to be ({len(scores)}, {4 * classes}), or ({len(scores)}, 4) when they are "
            f"class-agnostic, and are {tuple(boxes.shape)}"
        )


def _finite_rows(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    # A sum is finite only if all of its terms are: one quick pass instead of several.
    if not len(boxes) or math.isfinite((boxes.detach().sum() + scores.detach().sum()).item()):
        return boxes, scores
    valid = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
    return boxes[valid], scores[valid]


def _best_of_many(image: Image, wanted: Tensor, count: int, nms_thresh, topk: int) -> Candidates:
    """The ``topk`` best survivors of the ``wanted`` candidates, (R, K) bool, ``count`` of them."""
    ranked = image.best(max(1, min(RANKED * topk, count // 4)))
    alive, survivors = None, 0
    seen, size = 0, first_block(ranked.indices[:, 1], topk)
    # One survivor more than asked for shows whether the last one's score is its alone.
    while survivors <= topk and seen < len(ranked.scores):
        block = ranked.take(slice(seen, seen + size))
        alive = _suppress(alive, block, nms_thresh)
        seen += len(block.scores)
        gained, survivors = len(alive.scores) - survivors, len(alive.scores)
        size = next_block(image.scores, seen, size, gained, topk + 1 - survivors)
    scores = alive.scores[: topk + 1]
    if survivors >= topk and not (scores[1:] == scores[:-1]).any():
        return alive.take(slice(topk))
    # Too few, or equal scores among them: everything else follows.
    rows, classes = ranked.indices[:seen].unbind(1)
    wanted[rows, classes] = False
    return _best_of_all(alive, image.gather(wanted), nms_thresh, topk)


def _best_of_all(alive: Candidates | None, rest: Candidates, nms_thresh, topk: int) -> Candidates:
    """The best survivors when ``rest`` is all that there is besides ``alive``; see `_suppress`."""
    survivors = _suppress(alive, rest, nms_thresh)
    if alive is not None:  # back to the order of proposal and class
        for column in (1, 0):
            survivors = survivors.take(survivors.indices[:, column].sort(stable=True)[1])
    order = survivors.scores.sort(descending=True)[1]  # as batched_nms, which is not stable
    return survivors.take(order[:topk] if topk >= 0 else order)


def _suppress(alive: Candidates | None, block: Candidates, nms_thresh: float) -> Candidates:
    """NMS of each class, on ``block`` and on the survivors ``alive`` of all better candidates.

    Returns:
        The survivors among both, in their order, those of ``alive`` first.
    """
    known = 0 if alive is None else len(alive.scores)
    both = Candidates(*map(torch.cat, zip(alive, block))) if known else block
    classes, order = both.indices[:, 1].sort(stable=True)
    sizes = classes.unique_consecutive(return_counts=True)[1]
    contested = (sizes > 1) & (order[sizes.cumsum(0) - 1] >= known)
    sizes = sizes.tolist()
    groups = zip(
        contested.tolist(),
        order.split(sizes),
        both.boxes[order].split(sizes),
        both.scores[order].split(sizes),
    )
    keep = [
        group[nms(boxes, scores, nms_thresh)] if fight else group
        for fight, group, boxes, scores in groups
    ]
    return both.take(torch.cat(keep).sort()[0])


# With fewer candidates than this many times topk, all at once is the quickest.
MANY = 32
# So many calls at a time are few on a GPU.
CALLS = 64


def all_at_once(scores: Tensor, count: int, topk: int) -> bool:
    """Whether to suppress all ``count`` candidates of ``scores``, (R, K), together.

    A negative ``topk`` asks for all that survive.
    """
    if topk < 0 or count < MANY * topk:
        return True
    return not on_cpu(scores) and scores.shape[1] <= 2 * CALLS


def first_block(classes: Tensor, topk: int) -> int:
    """How many of the best candidates, of these (M,) classes, to begin with."""
    least = topk + topk // 4 + 1
    if on_cpu(classes):
        return least
    calls = (rank_in_class(classes) == 1).cumsum(0)
    return max(least, int((calls <= CALLS).count_nonzero()))


def next_block(scores: Tensor, seen: int, size: int, gained: int, missing: int) -> int:
    """How many follow when ``gained`` of the last ``size``, of all ``seen``, have survived.

    As many as it takes when as many of them survive as of the last; at most four times what is
    missing, for lower scores crowd less, but on a CPU few blocks are wanted too.
    """
    least = seen // 2 if on_cpu(scores) else CALLS
    return max(least, min(4 * missing, missing * size // max(gained, 1)))
