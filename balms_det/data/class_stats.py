"""Class statistics of a training set: the numbers that every long-tail method starts from.

Symbols: ``K`` foreground classes in Detectron2's contiguous order; ``n_c`` images, or instances,
of class c; ``N`` images of the dataset, those without annotations included; ``f_c = n_c / N``.
Crowd annotations are not counted: Detectron2 does not train on them either.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from balms_det.annotations.class_identity import (
    ClassList,
    check_same_order,
    class_places,
    reordered,
)
from balms_det.annotations.summary import AnnotationSummary, annotation_summary
from balms_det.data.repeat_factors import class_repeat_factors, instance_aware_frequency

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# A class is rare up to 10 training images, common up to 100, else frequent (LVIS, section 4.2).
RARE_MAX, COMMON_MAX = 10, 100


@dataclass(frozen=True, eq=False)
class ClassStats:
    """Counts of each class in a training set.

    Attributes:
        image_count: (K,) int64, images that hold the class. Zero is legal.
        instance_count: (K,) int64, instances of the class.
        num_images: N, a positive int.
        names: K class names, or None where they are not known.
        frequency: K labels "r", "c" or "f" when the dataset carries its own, else None.

    Raises:
        ValueError: counts that are not whole, negative, of different lengths, or impossible.
    """

    image_count: np.ndarray
    instance_count: np.ndarray
    num_images: int
    names: tuple[str, ...] | None = None
    frequency: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for field in ("image_count", "instance_count"):
            object.__setattr__(self, field, as_counts(field, getattr(self, field)))
        object.__setattr__(self, "num_images", int(self.num_images))
        for field in ("names", "frequency"):
            values = getattr(self, field)
            object.__setattr__(self, field, None if values is None else tuple(values))
        check_stats(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClassStats):
            return NotImplemented
        return (
            np.array_equal(self.image_count, other.image_count)
            and np.array_equal(self.instance_count, other.instance_count)
            and (self.num_images, self.names, self.frequency)
            == (other.num_images, other.names, other.frequency)
        )

    __hash__ = None

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.image_count)

    @property
    def image_frequency(self) -> np.ndarray:
        """(K,) float64 in [0, 1]: share of the images that hold the class."""
        return self.image_count / self.num_images

    @property
    def instance_frequency(self) -> np.ndarray:
        """(K,) float64 in [0, 1]: share of all instances that are of the class."""
        return self.instance_count / max(int(self.instance_count.sum()), 1)

    @property
    def absent(self) -> np.ndarray:
        """Indices of the classes without a single training image."""
        return np.flatnonzero(self.image_count == 0)

    def frequency_groups(self, rare_max: int = RARE_MAX, common_max: int = COMMON_MAX) -> list[str]:
        """K letters: "r" up to ``rare_max`` images, "c" up to ``common_max``, else "f".

        The labels that a dataset carries win over the default limits; other limits win over them.
        """
        if self.frequency is not None and (rare_max, common_max) == (RARE_MAX, COMMON_MAX):
            return list(self.frequency)
        return ["r" if n <= rare_max else "c" if n <= common_max else "f" for n in self.image_count]

    def repeat_factors(self, thresh: float, instance_aware: bool = False) -> np.ndarray:
        """Repeat factor of each class, (K,) float64: ``max(1, sqrt(thresh / f_c))``.

        RFS (LVIS, appendix B.2) takes the image frequency for ``f_c``; its instance-aware form
        IRFS (arXiv 2305.08069) takes ``sqrt(image frequency * instance frequency)``. A class that
        is in no image gets 1: there is nothing to repeat.
        """
        frequency = self.image_frequency
        if instance_aware:
            frequency = instance_aware_frequency(frequency, self.instance_frequency)
        return class_repeat_factors(frequency, thresh)

    @classmethod
    def from_dicts(
        cls, dataset_dicts: Sequence[dict], num_classes: int, names: Sequence[str] | None = None
    ) -> ClassStats:
        """Count Detectron2's dataset dicts.

        Raises:
            ValueError: a category id outside [0, num_classes), naming the image.
        """
        return cls.from_summary(dicts_summary(dataset_dicts, num_classes, names))

    @classmethod
    def from_file(cls, path: str) -> ClassStats:
        """Counts of a LVIS- or COCO-format annotation json, cached on disk.

        Raises:
            FileNotFoundError, AnnotationFileError: see ``annotation_file.summarize``.
        """
        return cls.from_summary(annotation_summary(path))

    @classmethod
    def from_dataset(cls, name: str) -> ClassStats:
        """Counts of a registered dataset: ``count_sources.dataset_summary`` says from where."""
        return cls.from_summary(dataset_summary(name))

    def in_order_of(self, wanted: ClassList, source: str) -> ClassStats:
        """The same counts with the classes in the order of ``wanted``.

        Args:
            wanted: of the same classes.
            source: what an error calls these counts: their file or dataset.

        Raises:
            ClassListError: other classes.
        """
        own = ClassList(source, self.num_classes, self.names)
        places = class_places(wanted, own)
        return ClassStats(
            self.image_count[places],
            self.instance_count[places],
            self.num_images,
            reordered(self.names, places),
            reordered(self.frequency, places),
        )

    @classmethod
    def from_summary(cls, s: AnnotationSummary) -> ClassStats:
        return cls(s.image_count, s.instance_count, s.num_images, s.names, s.frequency)


def build_class_stats(cfg: CfgNode) -> ClassStats:
    """Class statistics that a model of this config is trained with.

    They come from ``DATASETS.CLASS_COUNTS`` (a dataset or an annotation json), else from the sum of
    ``DATASETS.TRAIN``; the classes are in the order of ``DATASETS.TRAIN``, whatever that of the
    counted file is. They also become the ``class_image_count`` metadata of the training datasets,
    which Detectron2's own federated loss reads.

    Raises:
        ValueError: no dataset is named, their class lists differ, or nothing is annotated.
        KeyError, FileNotFoundError: see ``dataset_summary``.
    """
    source = cfg.DATASETS.CLASS_COUNTS
    names = [source] if source else list(cfg.DATASETS.TRAIN)
    if not names:
        raise ValueError("Set DATASETS.TRAIN or DATASETS.CLASS_COUNTS: no dataset to count.")
    parts = [stats_of(name) for name in names]
    if source and cfg.DATASETS.TRAIN:
        wanted = dataset_classes(cfg.DATASETS.TRAIN[0])
        parts = [parts[0].in_order_of(wanted, f"DATASETS.CLASS_COUNTS {source}")]
    stats = sum_class_stats(parts, [dataset_source_name(name) for name in names])
    if not stats.instance_count.any():
        raise ValueError(
            f"{', '.join(names)}: no annotation at all, crowds aside; there is nothing to learn."
        )
    for name in cfg.DATASETS.TRAIN:
        _set_class_image_count(name, stats)
    return stats


def sum_class_stats(parts: Sequence[ClassStats], sources: Sequence[str] = ()) -> ClassStats:
    """Statistics of several datasets that are trained on together.

    Args:
        parts: of each dataset.
        sources: their names, for errors.

    Raises:
        ClassListError: their classes are not the same ones in the same order.
    """
    sources = sources or [f"dataset {n}" for n in range(len(parts))]
    first, *others = [ClassList(s, p.num_classes, p.names) for s, p in zip(sources, parts)]
    for other in others:
        check_same_order(first, other)
    first = parts[0]
    labels = {part.frequency for part in parts}
    return ClassStats(
        sum(part.image_count for part in parts),
        sum(part.instance_count for part in parts),
        sum(part.num_images for part in parts),
        first.names,
        first.frequency if len(labels) == 1 else None,
    )


_given: dict[str, ClassStats] = {}


def give_class_stats(name: str, stats: ClassStats) -> None:
    """Let ``DATASETS.CLASS_COUNTS`` name statistics that no dataset has to be counted for.

    Args:
        name: how the config will call them; what it stood for before is forgotten.
        stats: for instance those that a checkpoint holds.
    """
    _given[name] = stats


def stats_of(name: str) -> ClassStats:
    """Statistics of :func:`give_class_stats`, of an annotation file if ``name`` ends in .json, or
    of a registered dataset."""
    if name in _given:
        return _given[name]
    return ClassStats.from_file(name) if name.endswith(".json") else ClassStats.from_dataset(name)


def _set_class_image_count(name: str, stats: ClassStats) -> None:
    from detectron2.data import MetadataCatalog

    metadata = MetadataCatalog.get(name)
    counts = [{"id": c + 1, "image_count": int(n)} for c, n in enumerate(stats.image_count)]
    if metadata.get("class_image_count", counts) != counts:
        delattr(metadata, "class_image_count")  # Metadata refuses to overwrite
    metadata.class_image_count = counts


def as_counts(field: str, values: object) -> np.ndarray:
    """A read-only int64 copy of one-dimensional ``values``.

    Raises:
        ValueError: another shape, a negative number or a fraction.
    """
    given = np.asarray(values)
    if given.ndim != 1:
        raise ValueError(f"ClassStats: {field} must be one-dimensional, got shape {given.shape}.")
    counts = given.astype(np.int64)
    if (counts != given).any() or (counts < 0).any():
        raise ValueError(f"ClassStats: {field} must hold whole numbers that are not negative.")
    counts.setflags(write=False)
    return counts


def check_stats(stats: ClassStats) -> None:
    """Raise ValueError where lengths differ or the counts cannot be."""
    lengths = {
        field: len(values)
        for field in ("image_count", "instance_count", "names", "frequency")
        if (values := getattr(stats, field)) is not None
    }
    if len(set(lengths.values())) != 1 or stats.num_classes == 0:
        raise ValueError(f"ClassStats needs one entry a class, at least one; lengths: {lengths}")
    if stats.num_images < 1:
        raise ValueError(f"ClassStats: num_images must be positive, got {stats.num_images}.")
    for wrong, more_than in (
        (stats.image_count > stats.num_images, f"the dataset has, {stats.num_images}"),
        (stats.image_count > stats.instance_count, "the class has instances"),
    ):
        if wrong.any():
            c = int(wrong.argmax())
            name = f" ({stats.names[c]})" if stats.names else ""
            raise ValueError(
                f"ClassStats: class {c}{name} is in {stats.image_count[c]} images, "
                f"more than {more_than}."
            )
    if not set(stats.frequency or ()) <= {"r", "c", "f"}:
        raise ValueError("ClassStats: frequency labels must be 'r', 'c' or 'f'.")


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
    from detectron2.data import DatasetCatalog

    if name not in DatasetCatalog:
        raise KeyError(
            f"Dataset '{name}' is not registered. Register it in Python, or list it in "
            "DATASETS.FILES as [name, annotation json, image root]. "
            f"Registered: {', '.join(sorted(DatasetCatalog.list()))}"
        )


def dataset_class_names(name: str) -> list[str] | None:
    """Class names of a registered dataset, without counting where that is avoidable."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    names = MetadataCatalog.get(name).get("thing_classes") if name in DatasetCatalog else None
    return list(names) if names else dataset_summary(name).names


def dataset_classes(name: str) -> ClassList:
    """Classes of a registered dataset, in the order of its contiguous classes.

    Raises:
        KeyError, ValueError, FileNotFoundError: see :func:`dataset_summary`.
    """
    return ClassList.of(dataset_source_name(name), dataset_class_names(name))


def dataset_source_name(name: str) -> str:
    """What an error calls a dataset: its annotation file, where it has one, and its name."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    json_file = MetadataCatalog.get(name).get("json_file") if name in DatasetCatalog else None
    return f"{json_file} of '{name}'" if json_file else f"the dataset '{name}'"


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
    """Counts from the dataset's json, in the order of its contiguous classes; None where the json's
    classes are not the dataset's."""
    from detectron2.data import MetadataCatalog

    metadata = MetadataCatalog.get(name)
    json_file = metadata.get("json_file")
    if not json_file or metadata.get("evaluator_type") not in ("lvis", "coco"):
        return None
    summary = annotation_summary(json_file)
    names = metadata.get("thing_classes")
    if names and len(names) != len(summary.names):
        return None
    class_of = metadata.get("thing_dataset_id_to_contiguous_id")
    if class_of is None or set(class_of) != set(summary.category_ids):
        return summary
    places = sorted(range(len(class_of)), key=lambda k: class_of[summary.category_ids[k]])
    columns = ("category_ids", "names", "frequency", "image_count", "instance_count")
    summary = replace(summary, **{c: reordered(getattr(summary, c), places) for c in columns})
    return replace(summary, names=list(names)) if names else summary


def _loaded_summary(name: str) -> AnnotationSummary:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    dataset_dicts = DatasetCatalog.get(name)
    names = MetadataCatalog.get(name).get("thing_classes")  # some loaders set it
    if not names:
        raise ValueError(
            f"Dataset '{name}' does not name its classes. Set them where it is registered: "
            f"MetadataCatalog.get('{name}').thing_classes = [...]"
        )
    return dicts_summary(dataset_dicts, len(names), names)
