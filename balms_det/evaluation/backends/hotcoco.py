"""hotcoco, an evaluator in Rust: the official packages' numbers, to the last bit, much faster.

It agrees with the official package where its input is prepared as the official one prepares its
own, so the limits on detections and the checks come before it. What is left to translate:

- an ``iscrowd`` annotation is no crowd by LVIS's rules, so none is marked;
- an annotation that LVIS's rules ignore has no field there; an area outside of every range does
  the same;
- its own limits are switched off, because the limit is applied already (by LVIS's rules a stream
  always has one of 300 an image, so where an image has more, all are evaluated at once);
- the area of a detection is that of its box, so a mask gets a box of the mask's area.

Images are evaluated some at a time (``rust_stream``), so that masks are decoded for these alone,
while the results of others are read, where these allow it (``result_parts``).

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
from typing import Any

import numpy as np

from balms_det.evaluation.detections import BrokenMaskError, Detections, distinct, with_area
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.metrics import AREA_RANGES, IOU_THRESHOLDS, RECALL_POINTS, Curves
from balms_det.evaluation.results.read import ReadWhole, result_parts
from balms_det.evaluation.rules import Limits

AREAS = tuple(AREA_RANGES)
_PART = 1 << 13  # detections that are matched together, about


def evaluate(
    truth: GroundTruth,
    detections: Detections,
    iou_type: str,
    areas: Sequence[str] = AREAS,
    fewer: Sequence[int] = (),
) -> Curves:
    """Precision and recall by hotcoco.

    Args:
        truth: with masks where they are evaluated.
        detections: within the limits; by LVIS's rules those without an area are left out here.
        iou_type: "bbox" or "segm".
        areas: the ranges that are asked for.
        fewer: by COCO's rules, smaller limits whose recall is asked for.

    Raises:
        ValueError: a mask whose RLE is broken; the message says which.
    """
    if truth.coco or np.bincount(detections.image, minlength=1).max() <= STREAM_LIMIT:
        parts = _parts(truth, detections)
        try:
            return _curves(truth, *streamed(truth, parts, iou_type, areas, fewer), areas, fewer)
        except BrokenMaskError:
            with_area(truth, detections)  # of several broken ones it names the first one
            raise
    detections = with_area(truth, detections)
    counts = np.bincount(detections.category, minlength=len(truth.category_ids))
    return _curves(truth, matched(truth, detections, iou_type, areas), counts, areas, ())


def evaluate_results(
    truth: GroundTruth, results: Any, iou_type: str, limits: Limits, fewer: Sequence[int] = ()
) -> Curves | None:
    """:func:`evaluate` of results, a list or the path of a json, that are matched while they are
    read; None where they have to be read as a whole.

    Args:
        truth: with masks where they are evaluated.
        results: see ``result_parts``.
        iou_type: "bbox" or "segm".
        limits: how many count.
        fewer: as in :func:`evaluate`.

    Raises:
        FileNotFoundError, ResultsError: see ``result_chunks``.
    """
    if not truth.coco and not 0 < limits.per_image <= STREAM_LIMIT:
        return None
    parts = result_parts(results, truth, iou_type, limits)
    try:
        return _curves(truth, *streamed(truth, parts, iou_type, AREAS, fewer), AREAS, fewer)
    except (ReadWhole, BrokenMaskError):
        return None


def _parts(truth: GroundTruth, detections: Detections) -> Iterator[Detections]:
    """Detections of some images at a time, in their order within an image, which decides between
    equal scores; by LVIS's rules those without an area are left out."""
    if (np.diff(detections.image) < 0).any():
        detections = detections.ordered(np.argsort(detections.image, kind="stable"))
    places = np.arange(0, len(detections), _PART)
    firsts = distinct(np.searchsorted(detections.image, detections.image[places]))
    for first, end in itertools.pairwise([*firsts.tolist(), len(detections)]):
        yield detections.part(slice(first, end)).with_area(truth.coco)


def _curves(
    truth: GroundTruth,
    evaluator,
    counts: np.ndarray,
    areas: Sequence[str],
    fewer: Sequence[int],
) -> Curves:
    held = distinct(truth.category)
    if not len(held):  # hotcoco takes no category for all of them
        shape = (len(IOU_THRESHOLDS), 0, len(areas))
        precision = np.zeros((shape[0], len(RECALL_POINTS), *shape[1:]))
        nothing = {n: np.zeros(shape[:2]) for n in fewer}
        return Curves(held, precision, np.zeros(shape), counts, nothing)
    evaluator.accumulate()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    of_fewer = {n: recall[:, :, 0, place] for place, n in enumerate(fewer)}
    return Curves(held, precision[..., -1], recall[..., -1], counts, of_fewer)


def matched(truth: GroundTruth, detections: Detections, iou_type: str, areas: Sequence[str]):
    """A ``hotcoco.COCOeval`` that has matched detections and instances, in these area ranges.

    Unlike the evaluator of a stream it keeps what was matched with what. The detections are those
    that count, with areas.
    """
    import hotcoco  # imported late: only this backend needs it

    dataset = hotcoco.COCO.from_arrays(
        image_dicts(truth, detections, np.arange(len(truth.image_ids))),
        category_dicts(truth),
        truth.image,
        truth.category,
        truth.box,
        area=instance_areas(truth),
        iscrowd=truth.crowd.astype(np.int64),
        segmentation=None if truth.masks is None else [mask.segmentation for mask in truth.masks],
    )
    masks = None if detections.masks is None else detections.masks[:]
    results = dataset.load_res(detection_rows(detections), segmentation=masks)
    evaluator = hotcoco.COCOeval(
        dataset, results.cap_detections_per_image(None), iou_type, lvis_style=not truth.coco
    )
    set_params(evaluator.params, truth, [max(len(detections), 1)], areas)
    evaluator.evaluate()
    return evaluator


_OUTSIDE_ALL_RANGES = 2 * AREA_RANGES["all"][1]


def set_params(params, truth: GroundTruth, limits: Sequence[int], areas: Sequence[str]) -> None:
    """``limits``: detections of an image (LVIS) or of a category on it (COCO) that count."""
    params.cat_ids = distinct(truth.category).tolist()
    params.iou_thrs, params.rec_thrs = IOU_THRESHOLDS.tolist(), RECALL_POINTS.tolist()
    params.max_dets = list(limits)
    params.area_rng = [list(AREA_RANGES[area]) for area in areas]
    params.area_rng_lbl = list(areas)


def category_dicts(truth: GroundTruth) -> list[dict]:
    return [{"id": k, "name": name} for k, name in enumerate(truth.names)]


def image_dicts(truth: GroundTruth, detections: Detections, images: np.ndarray) -> list[dict]:
    """These images, (n,) ascending ranks, among which are those of the detections."""
    which = images.tolist()
    if truth.coco:
        return [{"id": n, "height": truth.sizes[n][0], "width": truth.sizes[n][1]} for n in which]
    negative = (
        (truth.negative[n] for n in which)
        if truth.federated
        else _detected(truth, detections, images)
    )
    return [
        {
            "id": n,
            "height": truth.sizes[n][0],
            "width": truth.sizes[n][1],
            "neg_category_ids": absent,
            "not_exhaustive_category_ids": truth.not_exhaustive[n],
        }
        for n, absent in zip(which, negative)
    ]


def _detected(truth: GroundTruth, detections: Detections, images: np.ndarray) -> list[list[int]]:
    """For data annotated exhaustively: the categories that matter of all that are negative."""
    size = len(truth.category_ids)
    pairs = distinct(detections.image * size + detections.category)
    starts = np.searchsorted(pairs // size, images[1:])
    return [part.tolist() for part in np.split(pairs % size, starts)]


def instance_areas(truth: GroundTruth) -> np.ndarray:
    return truth.area if truth.coco else np.where(truth.ignore, _OUTSIDE_ALL_RANGES, truth.area)


def instance_dicts(truth: GroundTruth, areas: np.ndarray, which: np.ndarray) -> list[dict]:
    columns = (truth.image[which], truth.category[which], truth.box[which], areas[which])
    instances = [
        {"id": n + 1, "image_id": image, "category_id": category, "bbox": box, "area": area}
        for n, image, category, box, area in zip(
            which.tolist(), *(column.tolist() for column in columns)
        )
    ]
    if truth.coco:
        for instance, crowd in zip(instances, truth.crowd[which].tolist()):
            instance["iscrowd"] = int(crowd)
    if truth.masks is not None:
        for instance, n in zip(instances, which.tolist()):
            instance["segmentation"] = truth.masks[n].segmentation
    return instances


def detection_rows(detections: Detections) -> np.ndarray:
    """(N, 7): image, x, y, width, height, score, category."""
    box = detections.box
    if box is None:
        box = np.zeros((len(detections), 4))
        box[:, 2], box[:, 3] = detections.area, 1.0
    return np.column_stack([detections.image, box, detections.score, detections.category])


STREAM_LIMIT = 300  # detections of an image; by LVIS's rules a stream drops the others
_NO_LIMIT = 1 << 30
_IMAGES_AT_A_TIME = 256  # of those without detections
_THREADS = 3


def streamed(
    truth: GroundTruth,
    parts: Iterable[Detections],
    iou_type: str,
    areas: Sequence[str],
    fewer: Sequence[int] = (),
):
    """Match detections and instances, in these area ranges.

    Args:
        truth: with masks where they are evaluated.
        parts: detections with areas, their masks put together, by LVIS's rules at most
            ``STREAM_LIMIT`` an image; no image is in two of them.
        iou_type: "bbox" or "segm".
        areas: the ranges that are asked for.
        fewer: by COCO's rules, smaller limits whose recall is asked for.

    Returns:
        A ``hotcoco.COCOeval`` to accumulate, and (K,) int64, how many detections a category has.
    """
    import hotcoco  # imported late: only this backend needs it

    params = hotcoco.Params(iou_type)
    limit = _NO_LIMIT if truth.coco else STREAM_LIMIT
    set_params(params, truth, [*fewer, limit], areas)
    categories = category_dicts(truth)
    streams = [
        hotcoco.StreamingEval(categories, iou_type, lvis_style=not truth.coco, params=params)
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
        self._truth, self._areas = truth, instance_areas(truth)
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
            image_dicts(truth, detections, images),
            instance_dicts(truth, self._areas, which),
            detection_rows(detections),
            segmentation=detections.masks,
        )
        return np.bincount(detections.category, minlength=len(truth.category_ids))
