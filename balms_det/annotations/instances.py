"""Load a LVIS- or COCO-format json into Detectron2's dataset dicts.

One loader for both formats, because Detectron2's own two leave gaps: the COCO one drops the LVIS
keys and needs ``file_name``; the LVIS one knows LVIS's own classes only and no RLE masks.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from balms_det.annotations.boxes import hint_at_boxes
from balms_det.annotations.images import locate_images
from balms_det.annotations.masks import (
    MAX_COORDINATE,
    check_polygons,
    runs_fit,
    segmentation_to_rle,
)
from balms_det.annotations.read import (
    AnnotationFileError,
    garbage_collector_paused,
    read_annotation_json,
)
from balms_det.annotations.summary import LVIS, annotation_summary

logger = logging.getLogger(__name__)


def load_instances(
    name: str, json_file: str, image_root: str, class_of: Mapping[int, int] | None = None
) -> list[dict]:
    """Dataset dicts of an annotation file, in the order of the image ids.

    ``class_of`` is the contiguous class of each category id, by default the rank of the id. Every
    annotation becomes an instance, so that the counts of the classes are those of what is trained
    on; a polygon of fewer than 3 points, which Detectron2 leaves out, is an error.
    LVIS files keep ``neg_category_ids`` and ``not_exhaustive_category_ids`` (the file's own ids).

    Raises:
        FileNotFoundError: the json or the images are not there.
        AnnotationFileError: see ``annotation_file.summarize``; also a box or a mask that is none.
    """
    with garbage_collector_paused():
        return _load(name, json_file, image_root, class_of)


def _load(
    name: str, json_file: str, image_root: str, class_of: Mapping[int, int] | None
) -> list[dict]:
    summary = annotation_summary(json_file)  # every id is known to be listed from here on
    content = read_annotation_json(json_file)
    images = sorted(content["images"], key=lambda image: image["id"])
    annotations = _group_by_image(json_file, content.pop("annotations", ()))
    class_of = class_of or {category_id: c for c, category_id in enumerate(summary.category_ids)}
    records = []
    for image, path in zip(images, locate_images(name, images, image_root, summary.format)):
        record = _image_record(json_file, image, path, summary.format)
        given = annotations.pop(image["id"], ())
        size = record["height"], record["width"]
        record["annotations"] = [_instance(json_file, a, class_of, size) for a in given]
        records.append(record)
    _check_rles(json_file, records)
    _look_at_boxes(json_file, records)
    logger.info("Loaded %d images of '%s' from %s", len(records), name, json_file)
    return records


def _group_by_image(json_file: str, annotations: list[dict]) -> dict[int | str, list[dict]]:
    groups: dict[int | str, list[dict]] = defaultdict(list)
    seen = set()
    for annotation in annotations:
        groups[annotation["image_id"]].append(annotation)
        annotation_id = annotation.get("id")
        if annotation_id is not None and annotation_id in seen:
            # The evaluators index annotations by id, and would silently lose one of the two.
            raise AnnotationFileError(
                f"{json_file}: annotation id {annotation_id!r} is not unique."
            )
        seen.add(annotation_id)
    return groups


def _image_record(json_file: str, image: dict, path: str, file_format: str) -> dict:
    record = {"file_name": path, "image_id": image["id"]}
    for key in ("height", "width"):
        if image.get(key) is None:
            raise AnnotationFileError(f"{json_file}: image {image['id']!r} has no '{key}'.")
        record[key] = image[key]
    if file_format == LVIS:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            record[key] = image.get(key) or []
    return record


def _instance(
    json_file: str, annotation: dict, class_of: dict[int, int], size: tuple[int, int]
) -> dict:
    """One instance in an image of this (height, width)."""
    instance = {
        "bbox": _box(json_file, annotation),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": class_of[annotation["category_id"]],
        "iscrowd": int(annotation.get("iscrowd") or 0),
    }
    if annotation.get("segmentation"):
        try:
            instance["segmentation"] = _mask(annotation["segmentation"], *size)
        except (ValueError, TypeError) as error:
            raise AnnotationFileError(
                f"{json_file}: the 'segmentation' of {_place(annotation)} is broken: {error}"
            ) from error
    return instance


def _place(annotation: dict) -> str:
    return f"annotation {annotation.get('id')!r} of image {annotation['image_id']!r}"


def _box(json_file: str, annotation: dict) -> list[float]:
    box = annotation.get("bbox")
    numbers = isinstance(box, list) and all(isinstance(value, (int, float)) for value in box)
    if not numbers or len(box) != 4:
        raise AnnotationFileError(
            f"{json_file}: {_place(annotation)} needs a 'bbox' of four numbers "
            f"[x, y, width, height], got {box!r:.80}."
        )
    x, y, width, height = box
    low, high = -MAX_COORDINATE, MAX_COORDINATE
    if not (low <= x <= high and low <= y <= high and 0 <= width <= high and 0 <= height <= high):
        raise AnnotationFileError(
            f"{json_file}: the 'bbox' of {_place(annotation)}, [x, y, width, height], must hold "
            f"numbers from -{MAX_COORDINATE} to {MAX_COORDINATE} and no negative size, got {box!r}."
        )
    return box


def _look_at_boxes(json_file: str, records: list[dict]) -> None:
    counts = [len(record["annotations"]) for record in records]
    boxes = [instance["bbox"] for record in records for instance in record["annotations"]]
    image = np.repeat(np.arange(len(records)), counts)
    sizes = np.array([(record["height"], record["width"]) for record in records], np.float64)
    hint_at_boxes(json_file, np.array(boxes, np.float64).reshape(-1, 4), sizes[image])


def _mask(mask: Any, height: int, width: int) -> dict | list[list[float]]:
    """A compressed RLE, or polygons of at least 3 points each."""
    if isinstance(mask, dict) and {"counts", "size"} <= mask.keys():
        return segmentation_to_rle(mask, height, width)
    if isinstance(mask, list) and all(isinstance(polygon, list) for polygon in mask):
        check_polygons(mask, height, width)
        return mask
    raise ValueError(
        "it must be a list of polygons [x1, y1, x2, y2, ...] or an RLE with 'counts' and 'size'."
    )


def _check_rles(json_file: str, records: list[dict]) -> None:
    rles = [
        (record["image_id"], instance["segmentation"])
        for record in records
        for instance in record["annotations"]
        if isinstance(instance.get("segmentation"), dict)
    ]
    fits = runs_fit([rle for _, rle in rles])
    if fits.all():
        return
    image_id = rles[int(fits.argmin())][0]
    raise AnnotationFileError(
        f"{json_file}: an annotation of image {image_id!r} has a broken RLE: its runs do not add "
        "up to height times width. Were its counts cut off or changed on the way?"
    )
