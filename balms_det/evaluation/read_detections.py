"""Results, a list of dicts or its json file, into :class:`Detections`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from balms_det.data.annotation_json import read_annotation_json
from balms_det.evaluation.detections import Detections
from balms_det.evaluation.ground_truth import GroundTruth


def read_detections(results: Any, truth: GroundTruth, iou_type: str) -> Detections:
    """Read and check results.

    Boxes are evaluated by their box alone and masks by their mask alone, its area included, as
    Detectron2 does it. (The official package takes the area of the *box* for a mask whose entry has
    a box too.) A box that is missing is the one around the mask.

    Args:
        results: path of a json, or its list: ``[{"image_id", "category_id", "score", "bbox" (x, y,
            width, height) and/or "segmentation" (compressed RLE)}]``.
        truth: what they are evaluated on.
        iou_type: "bbox" or "segm".
    """
    if isinstance(results, (str, os.PathLike)):
        results = read_annotation_json(str(results))
    if not isinstance(results, Sequence):
        raise ValueError(f"results must be a list of detections, not {type(results).__name__}.")
    if not results:
        raise ValueError("results is an empty list: nothing was detected on any image.")
    size = len(results)
    images = {image_id: n for n, image_id in enumerate(truth.image_ids)}
    categories = {category_id: k for k, category_id in enumerate(truth.category_ids)}
    image = _ranks(results, "image_id", images)
    category = _ranks(results, "category_id", categories)
    score = np.array([r["score"] for r in results], dtype=np.float64)
    if not np.isfinite(score).all():
        wrong = int(np.argmin(np.isfinite(score)))
        raise ValueError(f"results[{wrong}] has the score {score[wrong]}.")
    if iou_type == "bbox":
        box = np.array([r["bbox"] for r in results], dtype=np.float64).reshape(size, 4)
        return Detections(image, category, score, box, None)
    masks = [r["segmentation"] for r in results]
    return Detections(image, category, score, None, masks)


def _ranks(results: Sequence[dict], key: str, rank: dict) -> np.ndarray:
    ranks = np.fromiter((rank.get(r[key], -1) for r in results), np.int64, len(results))
    if (ranks < 0).any():
        wrong = int(np.argmin(ranks))
        raise ValueError(
            f"results[{wrong}] has {key} {results[wrong][key]!r}, which the ground truth does not "
            "list: were the results made on another dataset?"
        )
    return ranks
