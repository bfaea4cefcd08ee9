"""Datasets from files, without Python: ``DATASETS.FILES`` and what follows from the class list."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from balms_det.annotations.class_identity import (
    ClassList,
    ClassListError,
    check_same_order,
    class_places,
    reordered,
)
from balms_det.annotations.images import GuardedLoader, guard_datasets
from balms_det.annotations.instances import load_instances
from balms_det.annotations.summary import COCO, LVIS, AnnotationSummary, annotation_summary
from balms_det.data.class_stats import (
    ClassStats,
    build_class_stats,
    dataset_classes,
    dataset_source_name,
)
from balms_det.utils.local import may_be_folder

logger = logging.getLogger(__name__)

# Detectron2's default, which stands for "not chosen".
DEFAULT_NUM_CLASSES = 80


def setup_datasets(cfg: CfgNode, classes: ClassList | None = None) -> CfgNode:
    """Register ``DATASETS.FILES``, guard the datasets' file names, give all datasets one order of
    the classes and settle ``NUM_CLASSES``, also on a frozen config.

    Args:
        cfg: its ``DATASETS`` and ``META.DATASETS`` are read.
        classes: those of the model's weights. Their order is taken where the classes are those of
            ``DATASETS.TRAIN``, or where no training data are named; else that of the first of
            ``DATASETS.TRAIN``.

    Returns:
        The same config.

    Raises:
        ValueError, KeyError, FileNotFoundError: see ``register_files``, ``align_classes`` and
            ``resolve_num_classes``.
    """
    register_files(cfg.DATASETS.FILES)
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, *cfg.META.DATASETS]
    guard_datasets(names)
    if cfg.DATASETS.TRAIN:
        classes = _order_of_weights(classes, file_classes(cfg.DATASETS.TRAIN[0]))
    if classes is not None:
        align_classes(names, classes)
        align_others(cfg.DATASETS.FILES, names, classes)
    resolve_num_classes(cfg)
    if cfg.MODEL.ROI_BOX_HEAD.USE_FED_LOSS and cfg.DATASETS.TRAIN:
        build_class_stats(cfg)  # Detectron2's federated loss reads the metadata that this sets
    return cfg


def _order_of_weights(weights: ClassList | None, data: ClassList) -> ClassList:
    """The classes of the training data, in the order of the weights where these have the same."""
    if weights is None or weights.names is None or data.names is None:
        return data
    return weights if set(weights.names) == set(data.names) else data


def file_classes(name: str) -> ClassList:
    """Classes of a registered dataset in the order of its own file, whatever order they have been
    given since.

    Raises:
        KeyError, ValueError, FileNotFoundError: see ``class_stats.dataset_summary``.
    """
    loader = _file_loader(name)
    if loader is None:
        return dataset_classes(name)
    summary = annotation_summary(loader.json_file)
    return ClassList.of(dataset_source_name(name), summary.names, summary.category_ids)


def align_classes(names: Iterable[str], classes: ClassList) -> None:
    """Give datasets the order of ``classes``: class c of their dicts and of their metadata is then
    class c there.

    Those of ``DATASETS.FILES`` are put into that order, by name; others, which their own code
    loads, must have it. A dataset of Python that does not name its classes is let pass.

    Raises:
        ClassListError: other classes, or another order that cannot be changed; both are named.
        KeyError, FileNotFoundError, AnnotationFileError: the dataset cannot be read.
    """
    for name in dict.fromkeys(names):
        loader = _file_loader(name)
        if loader is not None:
            summary = annotation_summary(loader.json_file)
            own = ClassList.of(dataset_source_name(name), summary.names, summary.category_ids)
            _set_class_order(name, summary, class_places(classes, own))
        elif name in DatasetCatalog and _names_classes(name):
            own = dataset_classes(name)
            try:
                check_same_order(classes, own)
            except ClassListError as error:
                raise ClassListError(
                    f"{error} List it in DATASETS.FILES under another name: classes are matched by "
                    "name there."
                ) from error


def align_others(rows: Sequence[Sequence[str]], aligned: Sequence[str], classes: ClassList) -> None:
    """:func:`align_classes` for datasets that only a tool may ask for, where they have the same
    classes at all."""
    for name in {row[0] for row in rows} - set(aligned):
        own = file_classes(name)
        try:
            class_places(classes, own)
        except ClassListError:
            continue
        align_classes([name], classes)


def _names_classes(name: str) -> bool:
    metadata = MetadataCatalog.get(name)
    has_file = metadata.get("json_file") and metadata.get("evaluator_type") in (LVIS, COCO)
    return bool(metadata.get("thing_classes") or has_file)


@dataclass(frozen=True)
class FileLoader:
    """Dataset dicts of an annotation file, with the classes in the order that the metadata say."""

    name: str
    json_file: str
    image_root: str

    def __call__(self) -> list[dict]:
        class_of = MetadataCatalog.get(self.name).thing_dataset_id_to_contiguous_id
        return load_instances(self.name, self.json_file, self.image_root, class_of)


def _file_loader(name: str) -> FileLoader | None:
    """The loader of a dataset of ``DATASETS.FILES``; None for others."""
    loader = DatasetCatalog.data.get(name)
    loader = loader.load if isinstance(loader, GuardedLoader) else loader
    return loader if isinstance(loader, FileLoader) else None


def _set_class_order(name: str, summary: AnnotationSummary, places: Iterable[int]) -> None:
    """Metadata of the classes, where ``places`` say which class of the file comes at each place."""
    metadata = MetadataCatalog.get(name)
    category_ids = reordered(summary.category_ids, places)
    new = {
        "thing_classes": reordered(summary.names, places),
        "thing_dataset_id_to_contiguous_id": {i: c for c, i in enumerate(category_ids)},
        "frequency_groups": reordered(_frequency_groups(summary), places),
    }
    for key, value in new.items():
        if metadata.get(key, value) != value:
            delattr(metadata, key)  # Metadata refuses to overwrite
    metadata.set(**new)


def register_files(rows: Sequence[Sequence[str]]) -> None:
    """Register datasets from rows of ``[name, annotation json, image root]``.

    The format (LVIS or COCO) is read from the json, as are the class names; category ids may have
    gaps. Registering the same row again is fine.

    Raises:
        ValueError: a malformed row, a name that stands for something else, or a bad json.
        FileNotFoundError: no such json, image folder, or images.
    """
    check_rows(rows)
    for row in rows:
        register_file(*row)


def check_rows(rows: Sequence[Sequence[str]]) -> None:
    """Raise ValueError unless every row of ``DATASETS.FILES`` is three texts."""
    for row in rows if isinstance(rows, (list, tuple)) else [rows]:
        texts = isinstance(row, (list, tuple)) and all(isinstance(entry, str) for entry in row)
        if not texts or len(row) != 3 or not all(row):
            raise ValueError(
                f"DATASETS.FILES: a row must be [name, annotation json, image root], got {row!r}."
            )


def register_file(name: str, json_file: str, image_root: str) -> None:
    """Register one dataset; see ``register_files``."""
    if name in DatasetCatalog:
        _check_same_files(name, json_file, image_root)
        return
    if not may_be_folder(image_root):
        raise FileNotFoundError(f"Dataset '{name}': the image root '{image_root}' is not a folder.")
    summary = annotation_summary(json_file)
    DatasetCatalog.register(name, FileLoader(name, json_file, image_root))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type=summary.format
    )
    _set_class_order(name, summary, range(len(summary.category_ids)))


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
    settle_num_classes(cfg, len(names), ", ".join(cfg.DATASETS.TRAIN))
    return cfg


def settle_num_classes(cfg: CfgNode, num_classes: int, source: str) -> None:
    """Set ``MODEL.ROI_HEADS.NUM_CLASSES`` to what ``source`` has, also on a frozen config.

    Raises:
        ValueError: another number was chosen.
    """
    given = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if given == num_classes:
        return
    if given != DEFAULT_NUM_CLASSES:
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {given}, but {source} has {num_classes} classes. "
            "Remove the key to have it filled in."
        )
    logger.info("MODEL.ROI_HEADS.NUM_CLASSES: %d, from %s", num_classes, source)
    _set_in_frozen(cfg, num_classes)


def _common_class_names(datasets: Sequence[str]) -> list[str]:
    first = dataset_classes(datasets[0])
    for other in datasets[1:]:
        check_same_order(first, dataset_classes(other))
    return list(first.names)


def _set_in_frozen(cfg: CfgNode, num_classes: int) -> None:
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    if frozen:
        cfg.freeze()
