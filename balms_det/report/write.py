"""From annotation and results files to the page.

Per-class lists follow the ranks of the category ids. Undefined values are None. Fractions are in
percent with one decimal; precision in whole percent, at the recall points 0, 0.01, ..., 1, without
the zeros at its end.

"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from balms_det.annotations.class_identity import ClassList
from balms_det.annotations.images import locate_images
from balms_det.annotations.read import read_annotation_json
from balms_det.data.class_stats import ClassStats, stats_of
from balms_det.evaluation.detections import Detections, with_area, within_limits
from balms_det.evaluation.ground_truth import GroundTruth, read_ground_truth
from balms_det.evaluation.lvis import evaluate_lvis
from balms_det.evaluation.metrics import IOU_THRESHOLDS, LVISResult
from balms_det.evaluation.results.read import read_detections
from balms_det.evaluation.rules import detection_limits
from balms_det.report.examples import Example, Shelf, run_shelves, truth_shelves
from balms_det.report.gallery import GalleryMaker
from balms_det.report.matching import Matches, confusion_cells, match
from balms_det.report.page import render_page
from balms_det.utils.files import write_atomically


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str | None = None
    coco_url: str | None = None


class _Images(msgspec.Struct):
    images: list[_Image]


def write_report(
    gt: str | os.PathLike,
    runs: Mapping[str, str | os.PathLike],
    target: str | os.PathLike,
    *,
    images: str | os.PathLike | None = None,
    counts: str | None = None,
    iou_type: str = "segm",
    per_shelf: int = 6,
    max_gallery_mb: float = 12.0,
) -> Path:
    """Write one HTML file that shows how the runs did on each class; it needs no network.

    Args:
        gt: LVIS- or COCO-format annotations that the runs are evaluated on.
        runs: name to results file (COCO results format, as ``evaluate_lvis`` reads it).
        target: HTML file to write.
        images: image root of ``gt``; without it the page has no pictures.
        counts: training annotations (.json) or a registered dataset, whose image counts the classes
            are plotted against; without it, images of ``gt`` are counted.
        iou_type: "segm" or "bbox".
        per_shelf: pictures of one kind (true positives, ...) for each class and run, at most.
        max_gallery_mb: megabytes of the page for pictures and their outlines, at most about;
            shared evenly by classes and runs.

    Returns:
        ``target``.

    Raises:
        FileNotFoundError: an annotation, results or image file is missing.
        ValueError: no run, unusable annotations, results or images; the message says where.
    """
    if not runs:
        raise ValueError("a report needs at least one run: name to results file.")
    truth = read_ground_truth(gt, masks=iou_type == "segm")
    stats = _class_stats(gt, counts)
    evaluated = [_evaluate(gt, truth, name, path, iou_type, stats) for name, path in runs.items()]
    paths = None if images is None else image_paths(gt, truth, images)
    title = f"{Path(gt).stem}: {' · '.join(runs)}"
    data = {
        "dataset": _dataset(gt, truth, evaluated[0].result, "training" if counts else "evaluated"),
        "classes": classes_payload(truth, evaluated, stats.image_count),
        "runs": [run_payload(truth, run) for run in evaluated],
        "gallery": _gallery(truth, evaluated, paths, per_shelf, int(max_gallery_mb * 1e6)),
    }
    write_atomically(target, render_page(title, data))
    return Path(target)


def _gallery(
    truth: GroundTruth,
    runs: list[Run],
    paths: list[str] | None,
    per_shelf: int,
    max_bytes: int,
) -> dict:
    shelves = truth_shelves(truth, per_shelf)
    for index, run in enumerate(runs):
        shelves += run_shelves(truth, run.detections, run.matches, index, per_shelf)
    if paths is None:
        return {"pictures": [], "outlines": [], "shelves": shelves_payload(shelves, {})}
    maker = GalleryMaker(truth, [(run.detections, run.matches) for run in runs], paths)
    drawn = maker.draw(shelves, max_bytes)
    return {
        "pictures": maker.album.pictures,
        "outlines": maker.album.outlines,
        "shelves": shelves_payload(shelves, drawn),
    }


def _class_stats(gt: str | os.PathLike, counts: str | None) -> ClassStats:
    evaluated = ClassStats.from_file(str(gt))
    if counts is None:
        return evaluated
    wanted = ClassList(str(gt), evaluated.num_classes, evaluated.names)
    return stats_of(str(counts)).in_order_of(wanted, str(counts))


def _evaluate(
    gt: str | os.PathLike,
    truth: GroundTruth,
    name: str,
    path: str | os.PathLike,
    iou_type: str,
    stats: ClassStats,
) -> Run:
    groups = stats.frequency_groups() if None in truth.frequency else None
    result = evaluate_lvis(str(gt), str(path), iou_type, groups=groups)
    detections = read_detections(str(path), truth, iou_type)
    # As evaluated, but with the classes that are not verified on an image: they too are confused.
    detections = within_limits(detections, detection_limits(result.rule))
    detections = with_area(truth, detections)
    return Run(name, result, detections, match(truth, detections))


def image_paths(gt: str | os.PathLike, truth: GroundTruth, root: str | os.PathLike) -> list[str]:
    """Image file of each image of ``truth``.

    Raises:
        FileNotFoundError: the images are not under ``root``.
    """
    content = read_annotation_json(str(gt), _Images)
    of_id = {image.id: msgspec.to_builtins(image) for image in content.images}
    return locate_images(str(gt), [of_id[i] for i in truth.image_ids], str(root), "lvis")


def _dataset(gt: str | os.PathLike, truth: GroundTruth, result: LVISResult, counted: str) -> dict:
    return {
        "name": Path(gt).name,
        "images": len(truth.image_ids),
        "instances": int((~truth.ignore).sum()),
        "iou": {"segm": "mask", "bbox": "box"}[result.iou_type],
        "max_dets": result.max_dets,
        "limited": "a class and image" if result.rule == "coco" else "an image",
        "counted": counted,
    }


# IoU thresholds of the precision-recall curves that are drawn.
_CURVES = {"pr50": 0.5, "pr75": 0.75}


@dataclass(frozen=True, eq=False)
class Run:
    """One results file, evaluated and matched."""

    name: str
    result: LVISResult
    detections: Detections
    matches: Matches


def classes_payload(truth: GroundTruth, runs: Sequence[Run], counts: Sequence[int]) -> dict:
    """What is the same in every run.

    Args:
        truth: the ground truth.
        runs: at least one.
        counts: K numbers of training images.
    """
    per_category = runs[0].result.per_category
    return {
        "ids": truth.category_ids,
        "names": truth.names,
        "groups": [category.frequency for category in per_category],
        "counts": [int(count) for count in counts],
        "images": [category.num_images for category in per_category],
        "instances": [category.num_instances for category in per_category],
    }


def run_payload(truth: GroundTruth, run: Run) -> dict:
    """What differs between runs."""
    categories = run.result.per_category
    curves = {
        key: [_curve(category.precision[_threshold(iou)]) for category in categories]
        for key, iou in _CURVES.items()
    }
    return {
        "name": run.name,
        "metrics": {name: _percent(value) for name, value in run.result.metrics.items()},
        "ap": [_percent(category.ap) for category in categories],
        "ap50": [_percent(category.ap50) for category in categories],
        "ap75": [_percent(category.ap75) for category in categories],
        "detections": [category.num_detections for category in categories],
        "confusion": confusion_cells(truth, run.detections, run.matches),
        **curves,
    }


def shelves_payload(shelves: Sequence[Shelf], drawn: dict[Example, dict]) -> list[dict]:
    """Shelves with the examples that were drawn."""
    return [
        {
            "class": shelf.category,
            "kind": shelf.kind,
            "run": shelf.run,
            "total": shelf.total,
            "examples": [drawn[example] for example in shelf.examples if example in drawn],
        }
        for shelf in shelves
    ]


def _threshold(iou: float) -> int:
    return int(np.argmin(np.abs(IOU_THRESHOLDS - iou)))


def _percent(value: float) -> float | None:
    return None if value < 0 else round(100 * float(value), 1)


def _curve(precision: np.ndarray) -> list[int] | None:
    if precision[0] < 0:
        return None
    return np.trim_zeros(np.round(100 * precision).astype(int), "b").tolist()
