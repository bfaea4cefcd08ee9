"""Results, a list of dicts or its json file, into :class:`Detections`."""

from __future__ import annotations

from typing import Any

from balms_det.evaluation.detections import Detections
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
        results: path of a json (``.gz`` and ``.zip`` too), or its list: ``[{"image_id",
            "category_id", "score", "bbox" (x, y, width, height) and/or "segmentation" (compressed
            RLE)}]``.
        truth: what they are evaluated on.
        iou_type: "bbox" or "segm".
        lenient: leave bad entries out, with a warning, instead of refusing them.

    Raises:
        FileNotFoundError, ResultsError: see ``results_file.check_results``.
    """
    key = "bbox" if iou_type == "bbox" else "segmentation"
    columns = check_results(results, truth, [key], lenient=lenient).columns
    return Detections(columns.image, columns.category, columns.score, columns.box, columns.masks)
