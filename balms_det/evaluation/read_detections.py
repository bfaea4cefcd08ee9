"""Results, a list of dicts or its json file, into :class:`Detections`."""

from __future__ import annotations

from typing import Any

import numpy as np

from balms_det.evaluation.detections import Detections, mask_areas
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.results_file import check_results


def read_detections(
    results: Any, truth: GroundTruth, iou_type: str, lenient: bool = False
) -> Detections:
    """Read and check results.

    Boxes are evaluated by their box alone and masks by their mask alone, its area included, as
    Detectron2 does it. (The official package takes the area of the *box* for a mask whose entry has
    a box too.) A box that is missing is the one around the mask.

    Args:
        results: path of a json, or its list: ``[{"image_id", "category_id", "score", "bbox" (x, y,
            width, height) and/or "segmentation" (compressed RLE)}]``.
        truth: what they are evaluated on.
        iou_type: "bbox" or "segm".
        lenient: leave bad entries out, with a warning, instead of refusing them.

    Raises:
        FileNotFoundError, ResultsError: see ``results_file.check_results``.
    """
    keys = ["bbox" if iou_type == "bbox" else "segmentation"]
    columns = check_results(results, truth, keys, lenient=lenient).columns
    box = np.zeros((len(columns), 4)) if columns.box is None else columns.box
    area = mask_areas(columns.masks) if columns.box is None else box[:, 2] * box[:, 3]
    masks = columns.masks
    return Detections(columns.image, columns.category, columns.score, box, area, masks)
