"""Box AP of detections in memory against a part of any registered dataset, by the rules that
``evaluate_lvis`` applies to it.

For many calls on one ground truth (a calibration at many strengths, a classifier after every epoch)
prepare it once::

    truth = BoxTruth.of_dataset(dataset_name, image_ids, frequency)
    box_ap(truth, [(image_id, boxes, scores, classes), ...])["APr"]

Symbols: ``K`` classes of a model, contiguous from 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from balms_det.annotations.read import garbage_collector_paused
from balms_det.evaluation.backends import hotcoco as rust
from balms_det.evaluation.detections import Detections, limited_detections
from balms_det.evaluation.ground_truth import GroundTruth, read_ground_truth
from balms_det.evaluation.lvis import group_members
from balms_det.evaluation.metrics import GROUPS, group_ap
from balms_det.evaluation.rules import applied_rule, detection_limits

METRICS = ("AP", "APr", "APc", "APf")
_FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")

# Of one image: id, boxes, scores, classes.
Found = tuple[Any, np.ndarray, np.ndarray, np.ndarray]


def lvis_ground_truth(
    dataset_name: str, dataset_dicts: Sequence[dict], frequency: Sequence[str]
) -> dict[str, Any]:
    """Dataset dicts as the content of an annotation file, boxes only, for a dataset without a file.
    Contiguous class ``c`` is its category ``c + 1``.

    An image without LVIS's ``neg_category_ids`` counts as annotated completely: every class is
    evaluated on it. Where no image has them, the content is in COCO's format, which says just that.

    Args:
        dataset_name: the registered dataset that the dicts are of.
        dataset_dicts: Detectron2's.
        frequency: K letters "r", "c" or "f".
    """
    class_of = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
    federated = any(field in record for record in dataset_dicts for field in _FEDERATED)
    images, annotations = [], []
    for record in dataset_dicts:
        own = record.get("annotations", ())
        if federated:  # LVIS has no crowds
            own = [a for a in own if not a.get("iscrowd")]
        image = {"id": record["image_id"], "height": record["height"], "width": record["width"]}
        lists = _federated_lists(record, own, class_of, len(frequency)) if federated else {}
        images.append({**image, **lists})
        annotations += [_annotation(record, instance) for instance in own]
    for number, annotation in enumerate(annotations):
        annotation["id"] = number + 1
    categories = [{"id": c + 1, "name": str(c), "frequency": f} for c, f in enumerate(frequency)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _federated_lists(
    record: dict, own: list[dict], class_of: dict[int, int] | None, num_classes: int
) -> dict[str, list[int]]:
    if "neg_category_ids" in record:
        absent = _ids(record["neg_category_ids"], class_of)
    else:
        absent = sorted({*range(1, num_classes + 1)} - {a["category_id"] + 1 for a in own})
    partly = _ids(record.get("not_exhaustive_category_ids", ()), class_of)
    return {"neg_category_ids": absent, "not_exhaustive_category_ids": partly}


def _annotation(record: dict, instance: dict) -> dict[str, Any]:
    box = BoxMode.convert(list(instance["bbox"]), instance["bbox_mode"], BoxMode.XYWH_ABS)
    box = [float(number) for number in box]  # dataset dicts may hold numpy's numbers
    return {
        "image_id": record["image_id"],
        "category_id": instance["category_id"] + 1,
        "bbox": box,
        "area": box[2] * box[3],  # AP by size is not asked for
        "iscrowd": int(instance.get("iscrowd", 0)),
    }


def _ids(dataset_ids: Sequence[int], class_of: dict[int, int] | None) -> list[int]:
    if class_of is None:  # LVIS itself, whose ids are 1 to K
        return list(dataset_ids)
    return [class_of[i] + 1 for i in dataset_ids]


class BoxTruth:
    """Ground truth that is read once and evaluated on many times.

    Args:
        content: of :func:`lvis_ground_truth`, or a ground truth without masks.
        class_ids: category id of each class; None where classes are the categories, ids ascending.
        frequency: K letters "r", "c" or "f"; None for those of the content.

    Raises:
        AnnotationFileError: the content is not that.
        ValueError: a class whose category the ground truth does not have.
    """

    def __init__(
        self,
        content: dict[str, Any] | GroundTruth,
        class_ids: Sequence[int] | None = None,
        frequency: Sequence[str] | None = None,
    ) -> None:
        known = isinstance(content, GroundTruth)
        self.columns = content if known else read_ground_truth(content, masks=False)
        ids = self.columns.category_ids
        class_ids = list(ids if class_ids is None else class_ids)
        if unknown := sorted(set(class_ids) - set(ids)):
            raise ValueError(
                f"{self.columns.source} has no category {unknown[0]}, which the dataset's metadata "
                "(thing_dataset_id_to_contiguous_id) gives a class."
            )
        groups = None
        if frequency is not None:
            pairs = list(zip(class_ids, frequency, strict=True))
            groups = {group: [i for i, f in pairs if f == group] for group in GROUPS}
        self.groups = group_members(self.columns, groups)
        self._category = np.searchsorted(ids, class_ids)  # rank of each class's category
        self._rank = {image_id: n for n, image_id in enumerate(self.columns.image_ids)}

    @classmethod
    def of_dataset(
        cls, dataset_name: str, image_ids: Collection, frequency: Sequence[str]
    ) -> BoxTruth:
        """Some images of a registered dataset: as its annotation file has them, which is what the
        detector is evaluated on, or, without a file, its dataset dicts.

        Args:
            dataset_name: registered.
            image_ids: which images.
            frequency: K letters "r", "c" or "f".

        Raises:
            KeyError: there is no such dataset.
            AnnotationFileError: the file is not in LVIS or COCO format.
        """
        metadata = MetadataCatalog.get(dataset_name)
        if not metadata.get("json_file"):
            wanted = set(image_ids)
            dicts = [d for d in DatasetCatalog.get(dataset_name) if d["image_id"] in wanted]
            return cls(lvis_ground_truth(dataset_name, dicts, frequency))
        truth = read_ground_truth(metadata.json_file, masks=False).of_images(image_ids)
        class_of = metadata.get("thing_dataset_id_to_contiguous_id")
        if class_of is None:  # LVIS itself, whose ids are 1 to K
            return cls(truth, range(1, len(frequency) + 1), frequency)
        return cls(truth, sorted(class_of, key=class_of.__getitem__), frequency)

    def detections(self, found: Iterable[Found]) -> Detections:
        """The detections of some images, see :func:`box_ap`, in columns."""
        ranks, parts = [], []
        for image_id, boxes, scores, classes in found:
            ranks.append(self._rank_of(image_id))
            parts.append((boxes, scores, classes))
        if not parts:
            parts = [(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))]
        boxes, scores, classes = (np.concatenate(column) for column in zip(*parts))
        image = np.repeat(np.array(ranks, np.int64), [len(part[1]) for part in parts[: len(ranks)]])
        size = boxes[:, 2:] - boxes[:, :2]  # in the boxes' own precision, as Detectron2 has it
        box = np.concatenate([boxes[:, :2], size], axis=1).astype(np.float64)
        _check(box, scores, classes, len(self._category))
        category = self._category[classes.astype(np.int64)]
        return Detections(image, category, scores.astype(np.float64), box, None)

    def _rank_of(self, image_id: int | str) -> int:
        try:
            return self._rank[image_id]
        except KeyError:
            raise ValueError(f"image {image_id!r} is not in the ground truth.") from None


def _check(box: np.ndarray, scores: np.ndarray, classes: np.ndarray, num_classes: int) -> None:
    if not (len(box) == len(scores) == len(classes)):
        raise ValueError(
            f"{len(box)} boxes have {len(scores)} scores and {len(classes)} classes: "
            "each needs one of both."
        )
    for what, good in (
        ("score that is not finite", np.isfinite(scores)),
        ("box that is not finite", np.isfinite(box).all(axis=1)),
        ("box of negative size", (box[:, 2:] >= 0).all(axis=1)),
        (f"class that is none of the {num_classes}", (classes >= 0) & (classes < num_classes)),
    ):
        if not good.all():
            n = int(np.argmin(good))
            raise ValueError(
                f"detection {n} has a {what}: score {scores[n]}, class {classes[n]}, "
                f"box (x, y, width, height) {box[n].tolist()}."
            )


@garbage_collector_paused()
def box_ap(
    ground_truth: dict[str, Any] | BoxTruth, found: Iterable[Found], max_dets: int | None = None
) -> dict[str, float]:
    """AP, APr, APc and APf in percent; NaN where nothing can be said.

    Args:
        ground_truth: of :func:`lvis_ground_truth`, or that prepared as a :class:`BoxTruth`.
        found: for each image its id, (n, 4) boxes (x0, y0, x1, y1 in pixels of the dataset), (n,)
            scores and (n,) contiguous classes, all numpy arrays.
        max_dets: detections that count, see ``evaluate_lvis``.

    Raises:
        ValueError: an unknown image or class, a score or box that is not finite.
    """
    truth = ground_truth if isinstance(ground_truth, BoxTruth) else BoxTruth(ground_truth)
    detections = truth.detections(found)
    if not len(detections):
        return dict.fromkeys(METRICS, math.nan)
    limits = detection_limits(applied_rule("default", truth.columns.coco), max_dets)
    detections = limited_detections(truth.columns, detections, limits)
    curves = rust.evaluate(truth.columns, detections, "bbox", areas=("all",))
    values = group_ap(curves, truth.columns.category_ids, truth.groups)
    return {m: 100 * values[m] if values[m] >= 0 else math.nan for m in METRICS}
