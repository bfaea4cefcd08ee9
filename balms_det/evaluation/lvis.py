"""Average precision of detections by the rules of LVIS and of COCO (``rules``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from balms_det.annotations.read import AnnotationFileError, garbage_collector_paused
from balms_det.evaluation.backends import BACKENDS, evaluate_boundary, evaluate_results
from balms_det.evaluation.detections import distinct, limited_detections
from balms_det.evaluation.ground_truth import GroundTruth, read_ground_truth
from balms_det.evaluation.metrics import GROUPS, ClassTable, Curves, LVISResult, summarize
from balms_det.evaluation.results.read import read_detections
from balms_det.evaluation.rules import applied_rule, check_rule, detection_limits, fewer_detections

Groups = Mapping[str, Sequence[int]] | Sequence[str]


@garbage_collector_paused()
def evaluate_lvis(
    gt: Any,
    results: Any,
    iou_type: str = "segm",
    max_dets: int | None = None,
    *,
    backend: str = "hotcoco",
    rule: str = "default",
    boundary: bool = False,
    groups: Groups | None = None,
    lenient: bool = False,
) -> LVISResult:
    """Evaluate detections by LVIS's or COCO's rules, whichever the data is made for.

    Args:
        gt: path of an LVIS- or COCO-format json, its loaded dict, or a ``lvis.LVIS``. Without
            ``neg_category_ids`` every category counts on every image (COCO format).
        results: path of a json or its list, ``[{"image_id", "category_id", "score", "bbox" (x, y,
            width, height), "segmentation" (compressed RLE)}]``.
        iou_type: "segm" or "bbox".
        max_dets: detections that count, highest scores first; -1 is no limit. By LVIS's rules those
            of an image (default 300), by COCO's those of a category on an image (100).
        backend: "hotcoco" (fast) or "official" (the packages ``lvis`` and ``pycocotools``); same
            bits.
        rule: "default": LVIS's rules where images have ``neg_category_ids``, else COCO's; "lvis" or
            "coco" by name; or "fixed": LVIS's with no limit per image but 10,000 detections a class
            over the dataset ("Evaluating Large-Vocabulary Object Detectors", arXiv 2102.01066).
        boundary: take the smaller of mask IoU and boundary IoU (dilation 0.02 of the diagonal;
            arXiv 2103.16562). With ``rule="fixed"`` it is the rule of the LVIS 2021 challenge.
        groups: category ids of "r", "c" and "f", or a label for every category, ids ascending, as
            ``ClassStats.from_file(training_json).frequency_groups(10, 100)`` makes them of training
            counts. By default the ``frequency`` of the categories; COCO-format data without it has
            APr, APc and APf undefined.
        lenient: leave unusable results out, with a warning, instead of refusing them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a wrong argument, unusable ground truth or results; the message says where.
    """
    check_arguments(iou_type, max_dets, backend, rule, boundary)
    truth = read_ground_truth(gt, iou_type == "segm", rule)
    members = group_members(truth, groups)
    rule = applied_rule(rule, truth.coco)
    limits = detection_limits(rule, max_dets)
    fewer = fewer_detections(limits) if truth.coco else ()
    curves = None
    if backend == "hotcoco" and not (boundary or lenient):
        curves = evaluate_results(truth, results, iou_type, limits, fewer)
    if curves is None:
        detections = read_detections(results, truth, iou_type, lenient)
        detections = limited_detections(truth, detections, limits)
        compute = evaluate_boundary if boundary else BACKENDS[backend]
        curves = compute(truth, detections, iou_type, fewer=fewer)
    most = limits.per_pair if truth.coco else limits.per_image
    return LVISResult(
        metrics=summarize(curves, truth.category_ids, members, most),
        groups=members,
        iou_type=iou_type,
        max_dets=most,
        rule=rule,
        _classes=_class_table(truth, curves),
    )


def check_arguments(
    iou_type: str, max_dets: int | None, backend: str, rule: str, boundary: bool
) -> None:
    for name, value, legal in (
        ("iou_type", iou_type, ("segm", "bbox")),
        ("backend", backend, tuple(BACKENDS)),
    ):
        if value not in legal:
            raise ValueError(f"{name}={value!r}: it must be one of {', '.join(map(repr, legal))}.")
    check_rule(rule, max_dets)
    if boundary and iou_type != "segm":
        raise ValueError("boundary=True compares masks: it needs iou_type='segm'.")


def group_members(truth: GroundTruth, groups: Groups | None) -> dict[str, list[int]]:
    """The groups "r", "c" and "f" with their category ids, ascending."""
    if isinstance(groups, Mapping):
        unknown = {i for ids in groups.values() for i in ids} - set(truth.category_ids)
        if unknown or not set(groups) <= set(GROUPS):
            raise ValueError(
                f"groups must map 'r', 'c' and 'f' to category ids of {truth.source}; it has the "
                f"groups {sorted(groups)} and the unknown ids {sorted(unknown)[:5]}."
            )
        return {group: sorted(groups.get(group, ())) for group in GROUPS}
    labels = truth.frequency if groups is None else list(groups)
    if len(labels) != len(truth.category_ids):
        raise ValueError(
            f"groups has {len(labels)} labels, {truth.source} {len(truth.category_ids)} categories."
        )
    unlabelled = [None] if groups is None and not truth.federated else []
    for name, label in zip(truth.names, labels):
        if label not in (*GROUPS, *unlabelled):
            raise AnnotationFileError(
                f"{truth.source}: category {name!r} has frequency {label!r}; it must be r, c or f. "
                "Or pass groups=, e.g. frequency_groups() of the training set's ClassStats."
            )
    pairs = list(zip(truth.category_ids, labels))
    return {group: [i for i, label in pairs if label == group] for group in GROUPS}


def _class_table(truth: GroundTruth, curves: Curves) -> ClassTable:
    size = len(truth.category_ids)
    counted = ~truth.ignore
    pairs = distinct(truth.image[counted] * size + truth.category[counted])
    return ClassTable(
        ids=truth.category_ids,
        names=truth.names,
        num_images=np.bincount(pairs % size, minlength=size),
        num_instances=np.bincount(truth.category[counted], minlength=size),
        curves=curves,
    )
