"""hotcoco over some images at a time, in threads.

hotcoco matches in threads of its own and lets Python run meanwhile, so a few threads of Python each
take the next detections, put dicts together for hotcoco and have them matched: while one of them
waits for its matches another one reads the next detections. Each has a stream of its own, and in
the end the streams are merged; which images are in which of them makes no difference.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from balms_det.evaluation.backends import rust_input
from balms_det.evaluation.detections import Detections, distinct
from balms_det.evaluation.ground_truth import GroundTruth

STREAM_LIMIT = 300  # detections of an image; a stream drops the others
_IMAGES_AT_A_TIME = 256  # of those without detections
_THREADS = 3


def streamed(truth: GroundTruth, parts: Iterable[Detections], iou_type: str, areas: Sequence[str]):
    """Match detections and instances, in these area ranges.

    Args:
        truth: with masks where they are evaluated.
        parts: detections with areas, their masks put together, at most ``STREAM_LIMIT`` an image;
            no image is in two of them.
        iou_type: "bbox" or "segm".
        areas: the ranges that are asked for.

    Returns:
        A ``hotcoco.COCOeval`` to accumulate, and (K,) int64, how many detections a category has.
    """
    import hotcoco  # imported late: only this backend needs it

    params = hotcoco.Params(iou_type)
    rust_input.set_params(params, truth, STREAM_LIMIT, areas)
    categories = rust_input.category_dicts(truth)
    streams = [
        hotcoco.StreamingEval(categories, iou_type, lvis_style=True, params=params)
        for _ in range(_THREADS)
    ]
    feed = _Feed(truth, parts)
    pool = ThreadPoolExecutor(_THREADS)
    try:
        tasks = [pool.submit(feed.match_all, stream) for stream in streams]
        counts = sum(task.result() for task in tasks)
    finally:
        feed.stop()
        pool.shutdown()
    return hotcoco.StreamingEval.merge(streams).finalize(), counts


class _Feed:
    """Hands out the parts, and then the images that were in none of them."""

    def __init__(self, truth: GroundTruth, parts: Iterable[Detections]) -> None:
        self._truth, self._areas = truth, rust_input.instance_areas(truth)
        self._order = np.argsort(truth.image, kind="stable")
        images = np.arange(len(truth.image_ids) + 1)
        self._limits = np.searchsorted(truth.image[self._order], images)
        self._left = np.diff(self._limits) > 0  # images with instances that were not handed out
        self._batches = itertools.chain(
            ((distinct(part.image), part) for part in parts), self._without_detections()
        )
        self._lock, self._stopped = threading.Lock(), False

    def _without_detections(self) -> Iterator[tuple[np.ndarray, Detections]]:
        masks, none = None if self._truth.masks is None else [], np.zeros(0, np.int64)
        nothing = Detections(none, none, np.zeros(0), np.zeros((0, 4)), masks)
        images = np.flatnonzero(self._left)
        for start in range(0, len(images), _IMAGES_AT_A_TIME):
            yield images[start : start + _IMAGES_AT_A_TIME], nothing

    def stop(self) -> None:
        """No thread gets anything more."""
        self._stopped = True

    def match_all(self, stream) -> np.ndarray:
        """Have one batch after the other matched; (K,) int64, its detections of each category."""
        counts = np.zeros(len(self._truth.category_ids), np.int64)
        try:
            while (batch := self._next()) is not None:
                counts += self._match(stream, *batch)
        finally:
            self.stop()  # all is handed out, or an error ends the other threads too
        return counts

    def _next(self) -> tuple[np.ndarray, Detections] | None:
        with self._lock:
            batch = None if self._stopped else next(self._batches, None)
            if batch is not None:
                self._left[batch[0]] = False
            return batch

    def _match(self, stream, images: np.ndarray, detections: Detections) -> np.ndarray:
        truth = self._truth
        limits = zip(self._limits[images].tolist(), self._limits[images + 1].tolist())
        which = np.concatenate([np.zeros(0, np.int64), *(self._order[a:b] for a, b in limits)])
        stream.update(
            rust_input.image_dicts(truth, detections, images),
            rust_input.instance_dicts(truth, self._areas, which),
            rust_input.detection_rows(detections),
            segmentation=detections.masks,
        )
        return np.bincount(detections.category, minlength=len(truth.category_ids))
