"""hotcoco, an evaluator in Rust: the official package's numbers, to the last bit, much faster.

It agrees with the official package where its input is prepared as the official one prepares its
own, so the limits on detections and the checks come before it. What is left to translate:

- an ``iscrowd`` annotation is no crowd in LVIS, so none is marked;
- an ignored annotation has no field there; an area outside of every range does the same;
- its own limit of 300 detections an image is switched off, because the limit is applied already
  (a stream always has it, so where an image has more, all images are evaluated at once);
- the area of a detection is that of its box, so a mask gets a box of the mask's area.

Images are evaluated some at a time (``rust_stream``), so that masks are decoded for these alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from balms_det.evaluation.backends import rust_input
from balms_det.evaluation.backends.rust_stream import streamed
from balms_det.evaluation.detections import Detections, distinct, with_area
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.lvis_result import AREA_RANGES, IOU_THRESHOLDS, RECALL_POINTS, Curves

AREAS = tuple(AREA_RANGES)
_STREAM_LIMIT = 300


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
    held = distinct(truth.category)
    fits = np.bincount(detections.image, minlength=1).max() <= _STREAM_LIMIT
    if len(held) and fits:
        evaluator, counts = streamed(truth, detections, iou_type, areas)
    else:
        detections = with_area(truth, detections)
        counts = np.bincount(detections.category, minlength=len(truth.category_ids))
        if not len(held):
            shape = (len(IOU_THRESHOLDS), 0, len(areas))
            precision = np.zeros((shape[0], len(RECALL_POINTS), *shape[1:]))
            return Curves(held, precision, np.zeros(shape), counts)
        evaluator = matched(truth, detections, iou_type, areas)
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
        rust_input.image_dicts(truth, detections),
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
    rust_input.set_params(evaluator.params, truth, detections, areas)
    evaluator.evaluate()
    return evaluator
