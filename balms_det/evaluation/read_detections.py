"""Results, a list of dicts or its json file, into :class:`Detections`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from balms_det.evaluation.detections import Detections
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.held_masks import HeldMasks, MaskReader
from balms_det.evaluation.known_ids import KnownIds
from balms_det.evaluation.mask_column import MaskColumn
from balms_det.evaluation.result_chunks import result_chunks
from balms_det.evaluation.result_columns import Columns, ColumnsBuilder
from balms_det.evaluation.result_duplicates import find_duplicates
from balms_det.evaluation.results_file import check_results
from balms_det.evaluation.sound_columns import sound_columns


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


def open_detections(
    results: Any, truth: GroundTruth, iou_type: str, lenient: bool = False
) -> Detections:
    """:func:`read_detections`, but masks of a list of results are read when they are asked for.

    So the error of a mask may come later, and ``masks.check_all()`` has to be called in the end for
    those that nobody asks for. Masks that are in a file are read at once, because its entries do
    not stay in memory, and so are results with another fault, or whose faulty entries are dropped.
    """
    columns = None
    if iou_type == "segm" and not lenient and isinstance(results, (list, tuple)):
        columns = _without_masks(results, known := KnownIds.of(truth))
    if columns is None:
        return read_detections(results, truth, iou_type, lenient)

    def read_again() -> MaskColumn:
        return read_detections(results, truth, iou_type).masks

    reader = MaskReader(results, columns.image, known, read_again)
    masks = HeldMasks(reader, columns.index)
    return Detections(columns.image, columns.category, columns.score, None, masks)


def _without_masks(results: Sequence, known: KnownIds) -> Columns | None:
    """The other columns of results; None if there are none, or one may have a fault."""
    builder, offset, problems = ColumnsBuilder(known, []), 0, {}
    for chunk in result_chunks(results):
        columns = sound_columns(chunk, offset, known, [])
        if columns is None:
            return None
        builder.add(columns)
        offset += len(chunk)
    columns = find_duplicates(builder.build(), problems, copies=False)
    return None if problems or not len(columns) else columns
