"""hotcoco over some images at a time, in threads.

hotcoco matches in threads of its own and lets Python run meanwhile, so a few threads of Python each
take the next images, measure the masks, put dicts together for hotcoco and have them matched: while
one of them waits for its matches another one prepares its images. Each has a stream of its own, and
in the end the streams are merged; which images are in which of them makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from balms_det.evaluation.backends import rust_input
from balms_det.evaluation.detections import BrokenMaskError, Detections, with_area
from balms_det.evaluation.ground_truth import GroundTruth

_IMAGES_AT_A_TIME = 64
_THREADS = 3


def streamed(truth: GroundTruth, detections: Detections, iou_type: str, areas: Sequence[str]):
    """Match detections and instances, in these area ranges.

    Args:
        truth: with masks where they are evaluated.
        detections: at most 300 an image; those without an area are left out here.
        iou_type: "bbox" or "segm".
        areas: the ranges that are asked for.

    Returns:
        A ``hotcoco.COCOeval`` to accumulate, and of every category how many detections have an
        area.

    Raises:
        ValueError: a mask whose RLE is broken; the message says which.
    """
    import hotcoco  # imported late: only this backend needs it

    params = hotcoco.Params(iou_type)
    rust_input.set_params(params, truth, detections, areas)
    categories = rust_input.category_dicts(truth)
    free = [
        hotcoco.StreamingEval(categories, iou_type, lvis_style=True, params=params)
        for _ in range(_THREADS)
    ]
    batches = _Batches(truth, detections)
    counts = np.zeros(len(categories), np.int64)

    def match(number: int) -> np.ndarray:
        stream = free.pop()
        category = batches.give(number, stream)
        free.append(stream)
        return np.bincount(category, minlength=len(categories))

    pool = ThreadPoolExecutor(_THREADS)
    try:
        for counted in pool.map(match, range(len(batches))):
            counts += counted
    except BrokenMaskError:
        with_area(truth, detections)  # of several broken ones it names the first in the results
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return hotcoco.StreamingEval.merge(free).finalize(), counts


class _Batches:
    """Ground truth and detections of some images at a time."""

    def __init__(self, truth: GroundTruth, detections: Detections) -> None:
        self._truth, self._areas = truth, rust_input.instance_areas(truth)
        self._images = rust_input.image_dicts(truth, detections)
        self._order = np.argsort(truth.image, kind="stable")
        self._detections = _by_image(detections)
        self._firsts = np.arange(0, len(self._images), _IMAGES_AT_A_TIME)
        limits = np.append(self._firsts, len(self._images))
        self._instance_limits = np.searchsorted(truth.image[self._order], limits)
        self._detection_limits = np.searchsorted(self._detections.image, limits)

    def __len__(self) -> int:
        return len(self._firsts)

    def give(self, number: int, stream) -> np.ndarray:
        """Have a batch matched; returns the categories of its detections that have an area."""
        first = self._firsts[number]
        which = self._order[slice(*self._instance_limits[number : number + 2])]
        detections = self._detections.part(slice(*self._detection_limits[number : number + 2]))
        detections = detections.with_area()
        stream.update(
            self._images[first : first + _IMAGES_AT_A_TIME],
            rust_input.instance_dicts(self._truth, self._areas, which),
            rust_input.detection_rows(detections),
            segmentation=detections.masks,
        )
        return detections.category


def _by_image(detections: Detections) -> Detections:
    """By rising image, in their order within an image, which decides between equal scores."""
    if (np.diff(detections.image) >= 0).all():
        return detections
    return detections.ordered(np.argsort(detections.image, kind="stable"))
