"""Datasets from files, without Python: ``DATASETS.FILES`` and what follows from the class list."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from balms_det.annotations.images import guard_datasets
from balms_det.annotations.instances import load_instances
from balms_det.annotations.summary import AnnotationSummary, annotation_summary
from balms_det.data.class_stats import ClassStats, build_class_stats, dataset_class_names

logger = logging.getLogger(__name__)

# Detectron2's default, which stands for "not chosen".
DEFAULT_NUM_CLASSES = 80


def setup_datasets(cfg: CfgNode) -> CfgNode:
    """Register ``DATASETS.FILES``, guard the datasets' file names and settle ``NUM_CLASSES``, also
    on a frozen config.

    Returns:
        The same config.

    Raises:
        ValueError, KeyError, FileNotFoundError: see ``register_files`` and ``resolve_num_classes``.
    """
    register_files(cfg.DATASETS.FILES)
    guard_datasets([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, *cfg.META.DATASETS])
    resolve_num_classes(cfg)
    if cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS and cfg.DATASETS.TRAIN:
        build_class_stats(cfg)  # Detectron2's federated loss reads the metadata that this sets
    return cfg


def register_files(rows: Sequence[Sequence[str]]) -> None:
    """Register datasets from rows of ``[name, annotation json, image root]``.

    The format (LVIS or COCO) is read from the json, as are the class names; category ids may have
    gaps. Registering the same row again is fine.

    Raises:
        ValueError: a malformed row, a name that stands for something else, or a bad json.
        FileNotFoundError: no such json, image folder, or images.
    """
    for row in rows if isinstance(rows, (list, tuple)) else [rows]:
        texts = isinstance(row, (list, tuple)) and all(isinstance(entry, str) for entry in row)
        if not texts or len(row) != 3 or not all(row):
            raise ValueError(
                f"DATASETS.FILES: a row must be [name, annotation json, image root], got {row!r}."
            )
        register_file(*row)


def register_file(name: str, json_file: str, image_root: str) -> None:
    """Register one dataset; see ``register_files``."""
    if name in DatasetCatalog:
        _check_same_files(name, json_file, image_root)
        return
    if not os.path.isdir(image_root):
        raise FileNotFoundError(f"Dataset '{name}': the image root '{image_root}' is not a folder.")
    summary = annotation_summary(json_file)
    DatasetCatalog.register(name, lambda: load_instances(name, json_file, image_root))
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type=summary.format,
        thing_classes=summary.names,
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(summary.category_ids)},
        frequency_groups=_frequency_groups(summary),
    )


def _check_same_files(name: str, json_file: str, image_root: str) -> None:
    metadata = MetadataCatalog.get(name)
    registered = (metadata.get("json_file"), metadata.get("image_root"))
    if registered != (json_file, image_root):
        raise ValueError(
            f"Dataset '{name}' is already registered with json and image root {registered}, not "
            f"{(json_file, image_root)}. Choose another name in DATASETS.FILES."
        )


def _frequency_groups(summary: AnnotationSummary) -> list[str]:
    return ClassStats.from_summary(summary).frequency_groups()


def resolve_num_classes(cfg: CfgNode) -> CfgNode:
    """Set ``MODEL.ROI_HEADS.NUM_CLASSES`` to the class count of ``DATASETS.TRAIN``.

    Detectron2's default of 80 means "not chosen" and is filled in; any other number must agree.

    Raises:
        ValueError: it disagrees, or the training datasets have different class lists.
    """
    if not cfg.DATASETS.TRAIN:
        return cfg
    names = _common_class_names(cfg.DATASETS.TRAIN)
    given = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if given == len(names):
        return cfg
    if given != DEFAULT_NUM_CLASSES:
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {given}, but {', '.join(cfg.DATASETS.TRAIN)} has "
            f"{len(names)} classes. Remove the key to have it filled in."
        )
    logger.info("MODEL.ROI_HEADS.NUM_CLASSES: %d, from the training data", len(names))
    _set_in_frozen(cfg, len(names))
    return cfg


def _common_class_names(datasets: Sequence[str]) -> list[str]:
    names = dataset_class_names(datasets[0])
    for other in datasets[1:]:
        if dataset_class_names(other) != names:
            raise ValueError(f"'{datasets[0]}' and '{other}' have different class lists.")
    return names


def _set_in_frozen(cfg: CfgNode, num_classes: int) -> None:
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    if frozen:
        cfg.freeze()
