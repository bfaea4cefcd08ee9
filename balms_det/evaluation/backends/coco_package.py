"""pycocotools' own evaluation: COCO's rules, and the oracle of the tests.

Nothing of its arithmetic is replaced. Ids are ranks, and annotations are numbered from 1, because
one with id 0 can never match in the package.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from balms_det.evaluation.metrics import AREA_RANGES, IOU_THRESHOLDS, RECALL_POINTS, Curves

_NO_LIMIT = 1 << 30  # the limit itself was applied before


def coco_curves(
    images: list[dict],
    categories: list[dict],
    instances: list[dict],
    detections: list[dict],
    iou_type: str,
    fewer: Sequence[int],
    evaluator: type = COCOeval,
) -> Curves:
    """Precision and recall of all categories.

    Args:
        images, categories, instances, detections: as in a COCO-format file; instances with
            ``iscrowd``, detections with ``score`` and ``area``, masks as compressed RLEs.
        iou_type: "bbox" or "segm".
        fewer: smaller numbers of detections of a category on an image whose recall is asked for.
        evaluator: ``COCOeval`` or a subclass.
    """
    shared = {"images": images, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it is about to do
        truth = _indexed({**shared, "annotations": instances})
        evaluation = evaluator(truth, _indexed({**shared, "annotations": detections}), iou_type)
        params = evaluation.params
        params.maxDets = [*fewer, _NO_LIMIT]
        params.iouThrs, params.recThrs = IOU_THRESHOLDS, RECALL_POINTS
        params.areaRng, params.areaRngLbl = list(map(list, AREA_RANGES.values())), list(AREA_RANGES)
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    found = [detection["category_id"] for detection in detections]
    return Curves(
        categories=np.arange(len(categories)),
        precision=precision[..., -1],
        recall=recall[..., -1],
        num_detections=np.bincount(np.array(found, np.int64), minlength=len(categories)),
        fewer={n: recall[:, :, 0, place] for place, n in enumerate(fewer)},
    )


def _indexed(content: dict) -> COCO:
    dataset = COCO()
    dataset.dataset = content
    dataset.createIndex()
    return dataset
