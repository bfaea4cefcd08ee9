"""What a LVIS- or COCO-format annotation json says about its classes, read without building it.

An annotation file is mostly polygons. Here it is decoded against types that declare only the ids,
so the rest is skipped without becoming Python objects: far less time and memory than a full load.

Symbols: ``K`` categories, in ascending order of their ids; that order is Detectron2's contiguous
class id (for LVIS, id - 1; for files whose ids have gaps, the rank of the id).

An entry belongs to one state of one annotation file: its path, size and modification time. On disk
it lies beside the annotation file or, where that folder is read-only, in the user's cache folder
(``$XDG_CACHE_HOME/balms_det``, by default ``~/.cache/balms_det``).

"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import msgspec
import numpy as np

from balms_det.annotations.read import (
    AnnotationFileError,
    Id,
    Side,
    check_unique,
    local_file,
    read_annotation_json,
    sorted_by_id,
)
from balms_det.utils.file_cache import MIN_CACHED_BYTES, cache_paths, write_first_possible
from balms_det.utils.local import is_first_rank

LVIS, COCO = "lvis", "coco"


class _Category(msgspec.Struct, gc=False):
    id: Id
    name: str
    synonyms: list[str] | None = None
    frequency: str | None = None
    image_count: int | None = None


class _Image(msgspec.Struct, gc=False):
    id: Id | str
    file_name: str | None = None
    coco_url: str | None = None
    height: Side | None = None
    width: Side | None = None
    neg_category_ids: list[Id] | None = None
    not_exhaustive_category_ids: list[Id] | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: Id | str
    category_id: Id
    id: Id | str | None = None
    iscrowd: int | bool | None = 0


class _File(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation] = []  # test sets ship without


@dataclass(frozen=True)
class AnnotationSummary:
    """Classes and counts of one annotation file, in Detectron2's contiguous order.

    Attributes:
        format: ``"lvis"`` or ``"coco"``.
        category_ids: the K ids of the file, ascending.
        names: K unique class names, or None where they are not known.
        frequency: K letters r/c/f when the file labels its categories, else None.
        num_images: images of the file, those without annotations included.
        image_count: K counts of images that hold the class; crowd annotations do not count.
        instance_count: K counts of instances, without crowds.
    """

    format: str
    category_ids: list[int]
    names: list[str] | None
    frequency: list[str] | None
    num_images: int
    image_count: list[int]
    instance_count: list[int]


def summarize(path: str) -> AnnotationSummary:
    """Read and check an annotation file.

    Raises:
        FileNotFoundError: no such file.
        AnnotationFileError: not json, a missing key, duplicate ids or names, an annotation whose
            image or category the file does not list.
    """
    content = read_annotation_json(path, _File)
    categories = sorted_by_id(path, "categories", content.categories)
    sorted_by_id(path, "images", content.images)
    file_format = _detect_format(content)
    names = _class_names(categories, file_format)
    category_ids = [category.id for category in categories]
    check_unique(path, "categories", names, "name")
    _check_encodable(path, names)
    image_count, instance_count = _count(path, content, np.asarray(category_ids))
    return AnnotationSummary(
        format=file_format,
        category_ids=category_ids,
        names=names,
        frequency=_frequency(path, categories),
        num_images=len(content.images),
        image_count=image_count.tolist(),
        instance_count=instance_count.tolist(),
    )


def _check_encodable(path: str, names: list[str]) -> None:
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        raise AnnotationFileError(
            f"{path}: a category name holds half of a character: {error}."
        ) from error


def _detect_format(content: _File) -> str:
    federated = any(
        image.neg_category_ids is not None or image.not_exhaustive_category_ids is not None
        for image in content.images
    )
    counted = any(
        category.frequency is not None or category.image_count is not None
        for category in content.categories
    )
    return LVIS if federated or counted else COCO


def _class_names(categories: list[_Category], file_format: str) -> list[str]:
    """Detectron2 calls a LVIS class by its first synonym; do the same unless two would collide."""
    names = [category.name for category in categories]
    if file_format == LVIS and all(category.synonyms for category in categories):
        first_synonyms = [category.synonyms[0] for category in categories]
        if len(set(first_synonyms)) == len(first_synonyms):
            return first_synonyms
    return names


def _frequency(path: str, categories: list[_Category]) -> list[str] | None:
    labels = [category.frequency for category in categories]
    if any(label is None for label in labels):
        return None
    for category in categories:
        if category.frequency not in ("r", "c", "f"):
            raise AnnotationFileError(
                f"{path}: category '{category.name}' has frequency '{category.frequency}'; "
                "it must be 'r', 'c' or 'f'."
            )
    return labels


def _count(path: str, content: _File, category_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and instance counts, each (K,) int64."""
    annotations, num_classes = content.annotations, len(category_ids)
    index_of_image = {image.id: index for index, image in enumerate(content.images)}
    size = len(annotations)
    image = np.fromiter((index_of_image.get(a.image_id, -1) for a in annotations), np.int64, size)
    if (image < 0).any():
        unknown = annotations[int(np.argmin(image))].image_id
        raise AnnotationFileError(
            f"{path}: an annotation belongs to image {unknown!r}, which 'images' does not list."
        )
    category = np.fromiter((a.category_id for a in annotations), np.int64, size)
    rank = np.searchsorted(category_ids, category).clip(max=num_classes - 1)
    unknown_category = category_ids[rank] != category
    if unknown_category.any():
        wrong = annotations[int(unknown_category.argmax())]
        raise AnnotationFileError(
            f"{path}: an annotation of image {wrong.image_id!r} has category id "
            f"{wrong.category_id}, which 'categories' does not list."
        )
    kept = ~np.fromiter((bool(a.iscrowd) for a in annotations), bool, size)
    instance_count = np.bincount(rank[kept], minlength=num_classes)
    pairs = np.unique(image[kept] * num_classes + rank[kept])
    return np.bincount(pairs % num_classes, minlength=num_classes), instance_count


logger = logging.getLogger(__name__)
SUFFIX = ".class_stats_cache"
_VERSION = 2

_in_memory: dict[tuple, AnnotationSummary] = {}


class _Entry(msgspec.Struct):
    version: int
    path: str
    size: int
    mtime_ns: int
    summary: AnnotationSummary


def annotation_summary(path: str) -> AnnotationSummary:
    """Return the summary of an annotation file: from memory, else from disk, else by reading it.

    Only rank 0 writes to disk. The other ranks never wait for it (they may not all come here):
    without a cache they read the file themselves.

    Raises:
        FileNotFoundError, AnnotationFileError: see ``annotation_file.summarize``.
    """
    local_path = os.path.abspath(local_file(path))
    status = os.stat(local_path)
    key = (local_path, status.st_size, status.st_mtime_ns)
    if key not in _in_memory:
        _in_memory[key] = _from_disk(key) or _read(key)
    return _in_memory[key]


def _from_disk(key: tuple) -> AnnotationSummary | None:
    for cache_path in cache_paths(key[0], SUFFIX):
        try:
            with open(cache_path, "rb") as file:
                entry = msgspec.json.decode(file.read(), type=_Entry)
        except (OSError, msgspec.DecodeError, RecursionError):
            continue  # absent, unreadable or of another version of this package
        owner = entry.version, entry.path, entry.size, entry.mtime_ns
        if owner == (_VERSION, *key) and _is_whole(entry.summary):
            return entry.summary
    return None


def _is_whole(summary: AnnotationSummary) -> bool:
    """Whether every class has all of its numbers: somebody may have edited the file."""
    columns = (summary.names, summary.frequency, summary.image_count, summary.instance_count)
    sizes = {len(column) for column in (summary.category_ids, *columns) if column is not None}
    return len(sizes) == 1 and 0 not in sizes


def _read(key: tuple) -> AnnotationSummary:
    path, size, mtime_ns = key
    summary = summarize(path)
    if size >= MIN_CACHED_BYTES and is_first_rank():
        entry = _Entry(_VERSION, path, size, mtime_ns, summary)
        write_first_possible(cache_paths(path, SUFFIX), msgspec.json.encode(entry))
    return summary
