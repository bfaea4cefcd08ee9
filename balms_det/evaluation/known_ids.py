"""The images and categories that results may name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from balms_det.data.annotation_json import (
    AnnotationFileError,
    Id,
    Side,
    read_annotation_json,
)
from balms_det.data.entry_ids import sorted_by_id

_TABLE_SIZE = 1 << 24  # ids of COCO and LVIS are below a million


class _Image(msgspec.Struct, gc=False):
    id: Id | str
    height: Side
    width: Side


class _Category(msgspec.Struct, gc=False):
    id: Id


class _File(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]  # a test set has no annotations, and none are read


@dataclass(frozen=True, eq=False)
class KnownIds:
    """Ids of a dataset, ascending; a rank is a place in that order.

    Attributes:
        image_ids: image ids.
        sizes: (images, 2) int64, height and width in pixels.
        size_lists: the same, [height, width] of each.
        category_ids: category ids.
        image_rank: image id to rank.
        category_rank: category id to rank.
        image_table: the ranks once more, at the places of the ids, or -1; None where ids are no
            small whole numbers.
        category_table: the same for categories.
    """

    image_ids: list
    sizes: np.ndarray
    size_lists: list[list[int]]
    category_ids: list
    image_rank: dict
    category_rank: dict
    image_table: np.ndarray | None
    category_table: np.ndarray | None

    @classmethod
    def of(cls, gt: Any) -> KnownIds:
        """Ids of a dataset: path of its json, its dict, or what has ``image_ids``, ``sizes``
        and ``category_ids`` in ascending order of the ids (``GroundTruth``).

        Raises:
            FileNotFoundError: no such file.
            AnnotationFileError: it is not in LVIS or COCO format, or an id is there twice.
        """
        if not hasattr(gt, "image_ids"):
            name = str(gt) if isinstance(gt, (str, os.PathLike)) else "ground truth"
            return cls._of_file(name, _read(gt))
        return cls._of(gt.image_ids, gt.sizes, gt.category_ids)

    @classmethod
    def _of_file(cls, name: str, content: _File) -> KnownIds:
        images = sorted_by_id(name, "images", content.images)
        categories = sorted_by_id(name, "categories", content.categories)
        sizes = [(image.height, image.width) for image in images]
        return cls._of([i.id for i in images], sizes, [c.id for c in categories])

    @classmethod
    def _of(cls, image_ids: list, sizes: list, category_ids: list) -> KnownIds:
        ranks = ({i: n for n, i in enumerate(ids)} for ids in (image_ids, category_ids))
        tables = (_table(ids) for ids in (image_ids, category_ids))
        sizes = np.array(sizes, np.int64).reshape(-1, 2)
        return cls(image_ids, sizes, sizes.tolist(), category_ids, *ranks, *tables)


def _table(ids: list) -> np.ndarray | None:
    if not all(isinstance(i, int) and 0 <= i < _TABLE_SIZE for i in ids):
        return None
    table = np.full(max(ids, default=0) + 1, -1, np.int64)
    table[ids] = np.arange(len(ids))
    return table


def _read(gt: Any) -> _File:
    if isinstance(gt, (str, os.PathLike)):
        return read_annotation_json(str(gt), _File)
    if not isinstance(gt, Mapping):
        raise TypeError(f"a dataset is a path or a dict here, not {type(gt).__name__}.")
    try:
        return msgspec.convert(gt, _File)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise AnnotationFileError(
            f"ground truth is not in LVIS or COCO format: {error} ($ is the whole dict)."
        ) from error
