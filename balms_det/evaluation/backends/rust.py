"""hotcoco, an evaluator in Rust: the official package's numbers, to the last bit, much faster.

It agrees with the official package where its input is prepared as the official one prepares its
own, so the limits on detections and the checks come before it. What is left to translate:

- an ``iscrowd`` annotation is no crowd in LVIS, so none is marked;
- an ignored annotation has no field there; an area outside of every range does the same;
- its own limit of 300 detections an image is switched off, because the limit is applied already
  (a stream always has it, so where an image has more, all images are evaluated at once);
- the area of a detection is that of its box, so a mask gets a box of the mask's area.

Images are evaluated some at a time, as a stream, so that masks are decoded for these alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from balms_det.evaluation.detections import Detections, distinct
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.lvis_result import AREA_RANGES, IOU_THRESHOLDS, RECALL_POINTS, Curves

AREAS = tuple(AREA_RANGES)
_OUTSIDE_ALL_RANGES = 2 * AREA_RANGES["all"][1]
_IMAGES_AT_A_TIME = 64
_STREAM_LIMIT = 300


def evaluate(
    truth: GroundTruth, detections: Detections, iou_type: str, areas: Sequence[str] = AREAS
) -> Curves:
    """Precision and recall by hotcoco.

    Args:
        truth: with masks where they are evaluated.
        detections: those that count; no limit is applied here.
        iou_type: "bbox" or "segm".
        areas: the ranges that are asked for.
    """
    held = distinct(truth.category)
    if not len(held):
        shape = (len(IOU_THRESHOLDS), 0, len(areas))
        return Curves(held, np.zeros((shape[0], len(RECALL_POINTS), *shape[1:])), np.zeros(shape))
    fits = np.bincount(detections.image, minlength=1).max() <= _STREAM_LIMIT
    evaluator = (_streamed if fits else matched)(truth, detections, iou_type, areas)
    evaluator.accumulate()
    curves = evaluator.eval
    return Curves(held, curves["precision"][..., 0], curves["recall"][..., 0])


def _streamed(truth: GroundTruth, detections: Detections, iou_type: str, areas: Sequence[str]):
    import hotcoco  # imported late: only this backend needs it

    params = hotcoco.Params(iou_type)
    _set(params, truth, detections, areas)
    stream = hotcoco.StreamingEval(_categories(truth), iou_type, lvis_style=True, params=params)
    for images, instances, rows, masks in _batches(truth, detections):
        stream.update(images, instances, rows, segmentation=masks)
    return stream.finalize()


def matched(truth: GroundTruth, detections: Detections, iou_type: str, areas: Sequence[str]):
    """A ``hotcoco.COCOeval`` that has matched detections and instances, in these area ranges.

    Unlike the evaluator of a stream it keeps what was matched with what.
    """
    import hotcoco

    dataset = hotcoco.COCO.from_arrays(
        _images(truth, detections),
        _categories(truth),
        truth.image,
        truth.category,
        truth.box,
        area=_areas(truth),
        segmentation=None if truth.masks is None else [mask.as_written() for mask in truth.masks],
    )
    masks = None if detections.masks is None else detections.masks[:]
    results = dataset.load_res(_rows(detections), segmentation=masks)
    evaluator = hotcoco.COCOeval(
        dataset, results.cap_detections_per_image(None), iou_type, lvis_style=True
    )
    _set(evaluator.params, truth, detections, areas)
    evaluator.evaluate()
    return evaluator


def _set(params, truth: GroundTruth, detections: Detections, areas: Sequence[str]) -> None:
    params.cat_ids = distinct(truth.category).tolist()
    params.iou_thrs, params.rec_thrs = IOU_THRESHOLDS.tolist(), RECALL_POINTS.tolist()
    params.max_dets = [max(len(detections), 1)]
    params.area_rng = [list(AREA_RANGES[area]) for area in areas]
    params.area_rng_lbl = list(areas)


def _batches(truth: GroundTruth, detections: Detections) -> Iterator[tuple]:
    """Image dicts, instance dicts, rows and masks of some images at a time."""
    images = _images(truth, detections)
    order = np.argsort(truth.image, kind="stable")
    detections = _by_image(detections)
    starts = np.arange(0, len(images), _IMAGES_AT_A_TIME)
    instance_ends = np.searchsorted(truth.image[order], starts + _IMAGES_AT_A_TIME)
    detection_ends = np.searchsorted(detections.image, starts + _IMAGES_AT_A_TIME)
    areas, first_instance, first = _areas(truth), 0, 0
    for start, last_instance, last in zip(starts, instance_ends, detection_ends):
        yield (
            images[start : start + _IMAGES_AT_A_TIME],
            _instances(truth, areas, order[first_instance:last_instance]),
            _rows(detections, slice(first, last)),
            None if detections.masks is None else detections.masks[first:last],
        )
        first_instance, first = last_instance, last


def _by_image(detections: Detections) -> Detections:
    """By rising image, in their order within an image, which decides between equal scores."""
    if (np.diff(detections.image) >= 0).all():
        return detections
    return detections.ordered(np.argsort(detections.image, kind="stable"))


def _categories(truth: GroundTruth) -> list[dict]:
    return [{"id": k, "name": name} for k, name in enumerate(truth.names)]


def _images(truth: GroundTruth, detections: Detections) -> list[dict]:
    negative = truth.negative if truth.federated else _detected(truth, detections)
    return [
        {
            "id": n,
            "height": height,
            "width": width,
            "neg_category_ids": negative[n],
            "not_exhaustive_category_ids": truth.not_exhaustive[n],
        }
        for n, (height, width) in enumerate(truth.sizes)
    ]


def _detected(truth: GroundTruth, detections: Detections) -> list[list[int]]:
    """For data annotated exhaustively: the categories that matter of all that are negative."""
    size = len(truth.category_ids)
    pairs = distinct(detections.image * size + detections.category)
    starts = np.searchsorted(pairs // size, np.arange(1, len(truth.sizes)))
    return [part.tolist() for part in np.split(pairs % size, starts)]


def _areas(truth: GroundTruth) -> np.ndarray:
    return np.where(truth.ignore, _OUTSIDE_ALL_RANGES, truth.area)


def _instances(truth: GroundTruth, areas: np.ndarray, which: np.ndarray) -> list[dict]:
    columns = (truth.image[which], truth.category[which], truth.box[which], areas[which])
    instances = [
        {"id": n + 1, "image_id": image, "category_id": category, "bbox": box, "area": area}
        for n, image, category, box, area in zip(
            which.tolist(), *(column.tolist() for column in columns)
        )
    ]
    if truth.masks is not None:
        for instance, n in zip(instances, which.tolist()):
            instance["segmentation"] = truth.masks[n].as_written()
    return instances


def _rows(detections: Detections, part: slice = slice(None)) -> np.ndarray:
    """(N, 7): image, x, y, width, height, score, category."""
    image, score = detections.image[part], detections.score[part]
    if detections.box is not None:
        box = detections.box[part]
    else:
        box = np.zeros((len(score), 4))
        box[:, 2], box[:, 3] = detections.area[part], 1.0
    return np.column_stack([image, box, score, detections.category[part]])
