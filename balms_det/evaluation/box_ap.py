"""LVIS box AP of detections in memory against a part of any registered dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from balms_det.evaluation.lvis_package import import_lvis

METRICS = ("AP", "APr", "APc", "APf")


def lvis_ground_truth(
    dataset_name: str, dataset_dicts: Sequence[dict], frequency: Sequence[str]
) -> dict[str, Any]:
    """Dataset dicts as the content of a LVIS annotation file, boxes only.

    Category ids are contiguous class + 1. Data without LVIS's ``neg_category_ids`` counts as
    annotated completely: every class is evaluated on every image.

    Args:
        dataset_name: the registered dataset that the dicts are of.
        dataset_dicts: Detectron2's.
        frequency: K letters "r", "c" or "f".
    """
    class_of = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
    images, annotations = [], []
    for record in dataset_dicts:
        own = [a for a in record.get("annotations", ()) if not a.get("iscrowd")]
        images.append(_image(record, own, class_of, len(frequency)))
        annotations += [_annotation(record, instance) for instance in own]
    for number, annotation in enumerate(annotations):
        annotation["id"] = number + 1
    categories = [{"id": c + 1, "name": str(c), "frequency": f} for c, f in enumerate(frequency)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _image(record: dict, own: list[dict], class_of: dict[int, int] | None, num_classes: int):
    if "neg_category_ids" in record:
        absent = _ids(record["neg_category_ids"], class_of)
    else:
        absent = sorted({*range(1, num_classes + 1)} - {a["category_id"] + 1 for a in own})
    return {
        "id": record["image_id"],
        "height": record["height"],
        "width": record["width"],
        "neg_category_ids": absent,
        "not_exhaustive_category_ids": _ids(
            record.get("not_exhaustive_category_ids", ()), class_of
        ),
    }


def _annotation(record: dict, instance: dict) -> dict[str, Any]:
    box = BoxMode.convert(list(instance["bbox"]), instance["bbox_mode"], BoxMode.XYWH_ABS)
    return {
        "image_id": record["image_id"],
        "category_id": instance["category_id"] + 1,
        "bbox": list(box),
        "area": box[2] * box[3],  # AP by size is not asked for
    }


def _ids(dataset_ids: Sequence[int], class_of: dict[int, int] | None) -> list[int]:
    if class_of is None:  # LVIS itself, whose ids are 1 to K
        return list(dataset_ids)
    return [class_of[i] + 1 for i in dataset_ids]


def box_ap(ground_truth: dict[str, Any], results: list[dict], max_dets: int = 300) -> dict:
    """AP, APr, APc and APf in percent; NaN where nothing can be said.

    Args:
        ground_truth: of :func:`lvis_ground_truth`.
        results: ``[{image_id, category_id, bbox xywh, score}]``.
        max_dets: detections an image that count.
    """
    if not results:
        return dict.fromkeys(METRICS, math.nan)
    lvis = import_lvis()
    truth = _index(lvis, ground_truth)
    found = lvis.LVISResults(truth, results, max_dets=max_dets)
    evaluation = lvis.LVISEval(truth, found, "bbox")
    evaluation.params.max_dets = max_dets
    evaluation.run()
    values = evaluation.get_results()
    return {m: 100 * float(values[m]) if values[m] >= 0 else math.nan for m in METRICS}


def _index(lvis, content: dict[str, Any]):
    """An ``lvis.LVIS`` of content in memory, where its own constructor reads a file."""
    in_memory = type("LVISInMemory", (lvis.LVIS,), {"_load_json": lambda self, content: content})
    return in_memory(content)


def as_results(
    image_id: int | str, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray
) -> list[dict]:
    """Detections of one image as LVIS results.

    Args:
        image_id: the image.
        boxes: (n, 4) x0, y0, x1, y1.
        scores, classes: (n,), contiguous classes.
    """
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    columns = zip(boxes.tolist(), scores.tolist(), (classes + 1).tolist())
    return [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
        for box, score, category in columns
    ]
