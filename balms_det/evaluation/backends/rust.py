"""hotcoco, an evaluator in Rust: the official package's numbers, to the last bit, much faster.

It agrees with the official package where its input is prepared as the official one prepares its
own, so the limits on detections and the checks come before it. What is left to translate:

- an ``iscrowd`` annotation is no crowd in LVIS, so none is marked;
- an ignored annotation has no field there; an area outside of every range does the same;
- its own limit of 300 detections an image is switched off, because the limit is applied already
  (a stream always has it, so where an image has more, all images are evaluated at once);
- the area of a detection is that of its box, so a mask gets a box of the mask's area.

Images are evaluated some at a time (``rust_stream``), so that masks are decoded for these alone,
while the results of others are read, where these allow it (``result_parts``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from balms_det.evaluation.backends import rust_input
from balms_det.evaluation.backends.rust_stream import STREAM_LIMIT, streamed
from balms_det.evaluation.detections import BrokenMaskError, Detections, distinct, with_area
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.lvis_result import AREA_RANGES, IOU_THRESHOLDS, RECALL_POINTS, Curves
from balms_det.evaluation.result_parts import ReadWhole, result_parts

AREAS = tuple(AREA_RANGES)
_PART = 1 << 13  # detections that are matched together, about


def evaluate(
    truth: GroundTruth, detections: Detections, iou_type: str, areas: Sequence[str] = AREAS
) -> Curves:
    """Precision and recall by hotcoco.

    Args:
        truth: with masks where they are evaluated.
        detections: within the limits; those without an area are left out here.
        iou_type: "bbox" or "segm".
        areas: the ranges that are asked for.

    Raises:
        ValueError: a mask whose RLE is broken; the message says which.
    """
    if np.bincount(detections.image, minlength=1).max() <= STREAM_LIMIT:
        try:
            return _curves(truth, *streamed(truth, _parts(detections), iou_type, areas), areas)
        except BrokenMaskError:
            with_area(truth, detections)  # of several broken ones it names the first one
            raise
    detections = with_area(truth, detections)
    counts = np.bincount(detections.category, minlength=len(truth.category_ids))
    return _curves(truth, matched(truth, detections, iou_type, areas), counts, areas)


def evaluate_results(
    truth: GroundTruth, results: Any, iou_type: str, per_image: int
) -> Curves | None:
    """:func:`evaluate` of results, a list or the path of a json, that are matched while they are
    read; None where they have to be read as a whole.

    Args:
        truth: with masks where they are evaluated.
        results: see ``result_parts``.
        iou_type: "bbox" or "segm".
        per_image: detections of an image that count; a negative one is no limit.

    Raises:
        FileNotFoundError, ResultsError: see ``result_chunks``.
    """
    if not 0 < per_image <= STREAM_LIMIT:
        return None
    parts = result_parts(results, truth, iou_type, per_image)
    try:
        return _curves(truth, *streamed(truth, parts, iou_type, AREAS), AREAS)
    except (ReadWhole, BrokenMaskError):
        return None


def _parts(detections: Detections) -> Iterator[Detections]:
    """Detections of some images at a time, in their order within an image, which decides between
    equal scores; those without an area are left out."""
    if (np.diff(detections.image) < 0).any():
        detections = detections.ordered(np.argsort(detections.image, kind="stable"))
    places = np.arange(0, len(detections), _PART)
    firsts = distinct(np.searchsorted(detections.image, detections.image[places]))
    for first, end in itertools.pairwise([*firsts.tolist(), len(detections)]):
        yield detections.part(slice(first, end)).with_area()


def _curves(truth: GroundTruth, evaluator, counts: np.ndarray, areas: Sequence[str]) -> Curves:
    held = distinct(truth.category)
    if not len(held):  # hotcoco takes no category for all of them
        shape = (len(IOU_THRESHOLDS), 0, len(areas))
        precision = np.zeros((shape[0], len(RECALL_POINTS), *shape[1:]))
        return Curves(held, precision, np.zeros(shape), counts)
    evaluator.accumulate()
    curves = evaluator.eval
    return Curves(held, curves["precision"][..., 0], curves["recall"][..., 0], counts)


def matched(truth: GroundTruth, detections: Detections, iou_type: str, areas: Sequence[str]):
    """A ``hotcoco.COCOeval`` that has matched detections and instances, in these area ranges.

    Unlike the evaluator of a stream it keeps what was matched with what. The detections are those
    that have an area, which is measured.
    """
    import hotcoco  # imported late: only this backend needs it

    dataset = hotcoco.COCO.from_arrays(
        rust_input.image_dicts(truth, detections, np.arange(len(truth.image_ids))),
        rust_input.category_dicts(truth),
        truth.image,
        truth.category,
        truth.box,
        area=rust_input.instance_areas(truth),
        segmentation=None if truth.masks is None else [mask.segmentation for mask in truth.masks],
    )
    masks = None if detections.masks is None else detections.masks[:]
    results = dataset.load_res(rust_input.detection_rows(detections), segmentation=masks)
    evaluator = hotcoco.COCOeval(
        dataset, results.cap_detections_per_image(None), iou_type, lvis_style=True
    )
    rust_input.set_params(evaluator.params, truth, max(len(detections), 1), areas)
    evaluator.evaluate()
    return evaluator
