"""Where the counts of a dataset come from: shipped with the package, its json, or its dicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from balms_det.data.annotation_file import AnnotationSummary
from balms_det.data.summary_cache import annotation_summary

_SHIPPED_FOLDER = Path(__file__).parent / "counts"
SHIPPED = ("lvis_v0.5_train", "lvis_v1_train")


def dataset_summary(name: str) -> AnnotationSummary:
    """Classes and counts of a registered dataset.

    In this order: counts shipped with the package (LVIS v0.5 and v1 train), the cache of its
    annotation json, a count over that json, a count over the dicts that it loads.

    Raises:
        KeyError: no such dataset.
        FileNotFoundError, AnnotationFileError: see ``annotation_file.summarize``.
    """
    if name in SHIPPED:
        return _shipped_summary(_SHIPPED_FOLDER / f"{name}.json")
    check_registered(name)
    summary = _json_summary(name)
    return summary if summary is not None else _loaded_summary(name)


def check_registered(name: str) -> None:
    """Raise KeyError, with the names that there are, for a dataset that nobody has registered."""
    if name not in DatasetCatalog:
        raise KeyError(
            f"Dataset '{name}' is not registered. Register it in Python, or list it in "
            "DATASETS.FILES as [name, annotation json, image root]. "
            f"Registered: {', '.join(sorted(DatasetCatalog.list()))}"
        )


def dataset_class_names(name: str) -> list[str] | None:
    """Class names of a registered dataset, without counting where that is avoidable."""
    names = MetadataCatalog.get(name).get("thing_classes") if name in DatasetCatalog else None
    return list(names) if names else dataset_summary(name).names


def dicts_summary(
    dataset_dicts: Sequence[dict], num_classes: int, names: Sequence[str] | None = None
) -> AnnotationSummary:
    """Count Detectron2's dataset dicts.

    Raises:
        ValueError: a category id outside [0, num_classes), naming the image.
    """
    image_count = np.zeros(num_classes, np.int64)
    instance_count = np.zeros(num_classes, np.int64)
    for record in dataset_dicts:
        classes = [a["category_id"] for a in record.get("annotations", ()) if not a.get("iscrowd")]
        if classes and not 0 <= min(classes) <= max(classes) < num_classes:
            raise ValueError(
                f"{record.get('file_name', record.get('image_id'))}: category ids "
                f"{sorted(set(classes))} are not all in [0, {num_classes - 1}]."
            )
        np.add.at(instance_count, classes, 1)
        image_count[list(set(classes))] += 1
    return AnnotationSummary(
        format="dicts",
        category_ids=list(range(num_classes)),
        names=None if names is None else list(names),
        frequency=None,
        num_images=len(dataset_dicts),
        image_count=image_count.tolist(),
        instance_count=instance_count.tolist(),
    )


def _shipped_summary(path: Path) -> AnnotationSummary:
    content = json.loads(path.read_text(encoding="utf-8"))
    return AnnotationSummary(
        format="lvis",
        category_ids=list(range(1, len(content["names"]) + 1)),
        names=content["names"],
        frequency=list(content["frequency"]),
        num_images=content["num_images"],
        image_count=content["image_count"],
        instance_count=content["instance_count"],
    )


def _json_summary(name: str) -> AnnotationSummary | None:
    """Counts from the dataset's json; None where the json's classes are not the dataset's."""
    metadata = MetadataCatalog.get(name)
    json_file = metadata.get("json_file")
    if not json_file or metadata.get("evaluator_type") not in ("lvis", "coco"):
        return None
    summary = annotation_summary(json_file)
    names = metadata.get("thing_classes")
    return None if names and len(names) != len(summary.names) else summary


def _loaded_summary(name: str) -> AnnotationSummary:
    dataset_dicts = DatasetCatalog.get(name)
    names = MetadataCatalog.get(name).get("thing_classes")  # some loaders set it
    if not names:
        raise ValueError(
            f"Dataset '{name}' does not name its classes. Set them where it is registered: "
            f"MetadataCatalog.get('{name}').thing_classes = [...]"
        )
    return dicts_summary(dataset_dicts, len(names), names)
