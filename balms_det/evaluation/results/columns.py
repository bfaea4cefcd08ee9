"""Results in columns, and the faults that were found in them.

All loops run in C: ``struct`` converts numbers and refuses whatever is none. Entries that do not
pass are read again by ``result_reader``, slowly, to say what is wrong.

"""

from __future__ import annotations

import dataclasses
import itertools
import operator
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from balms_det.annotations.read import (
    AnnotationFileError,
    Id,
    Side,
    read_annotation_json,
    sorted_by_id,
)
from balms_det.evaluation.detections import MaskColumn


@dataclass(frozen=True, eq=False)
class Columns:
    """N entries.

    Attributes:
        index: (N,) int64, place in the results.
        image: (N,) int64, rank of the image in the dataset.
        category: (N,) int64, rank of the category.
        score: (N,) float64.
        box: (N, 4) float64, x, y, width, height; None where boxes are not read.
        masks: of N entries; None where masks are not read.
        ids: N ids of the entries, or None.
    """

    index: np.ndarray
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    box: np.ndarray | None
    masks: MaskColumn | None
    ids: list | None = None

    def __len__(self) -> int:
        return len(self.score)

    def take(self, kept: np.ndarray) -> Columns:
        """The entries at these ascending indices."""
        if len(kept) == len(self):
            return self
        return Columns(*(_take(getattr(self, f.name), kept) for f in dataclasses.fields(self)))


class ColumnsBuilder:
    """Columns out of chunks, in buffers that grow: no number is held twice.

    Args:
        known: ids of the dataset.
        keys: "bbox" and/or "segmentation", what is read.
    """

    _TYPES = {"index": np.int64, "image": np.int64, "category": np.int64, "score": np.float64}

    def __init__(self, known: KnownIds, keys: Sequence[str]) -> None:
        types = {**self._TYPES, "box": np.float64} if "bbox" in keys else self._TYPES
        self._buffers = {name: (bytearray(), dtype) for name, dtype in types.items()}
        self._counts: list | None = [] if "segmentation" in keys else None
        self._sizes = known.size_lists
        self._ids: list | None = []

    def add(self, chunk: Columns) -> None:
        for name, (buffer, _) in self._buffers.items():
            buffer += getattr(chunk, name).tobytes()
        if self._counts is not None:
            self._counts += chunk.masks.counts
        if chunk.ids is None:  # ids count where all entries have one
            self._ids = None
        elif self._ids is not None:
            self._ids += chunk.ids

    def build(self) -> Columns:
        arrays = {n: np.frombuffer(buffer, dtype) for n, (buffer, dtype) in self._buffers.items()}
        box = arrays.pop("box").reshape(-1, 4) if "box" in arrays else None
        masks = None
        if self._counts is not None:
            masks = MaskColumn(self._counts, arrays["image"], self._sizes)
        return Columns(**arrays, box=box, masks=masks, ids=self._ids)


def _take(column: Any, kept: np.ndarray) -> Any:
    if isinstance(column, list):
        return [column[n] for n in kept.tolist()]
    if isinstance(column, MaskColumn):
        return column.take(kept)
    return None if column is None else column[kept]


_FAULTS = (LookupError, TypeError, ValueError, OverflowError, struct.error)


def sound_columns(
    entries: Sequence, offset: int, known: KnownIds, keys: Sequence[str]
) -> Columns | None:
    """The columns of entries, as ``result_reader.read_columns``; None if one may have a fault."""
    try:
        image = _ranks(entries, "image_id", known.image_rank, known.image_table)
        category = _ranks(entries, "category_id", known.category_rank, known.category_table)
        score = _numbers(map(operator.itemgetter("score"), entries), len(entries))
        box = _boxes(entries) if "bbox" in keys else None
        masks = _masks(entries, image, known) if "segmentation" in keys else None
        ids = read_ids(entries)
        set(ids or ())  # lists and objects, which are no ids, cannot be in a set
    except _FAULTS:
        return None
    if not np.isfinite(score).all():
        return None
    index = np.arange(offset, offset + len(entries))
    return Columns(index, image, category, score, box, masks, ids)


def read_ids(entries: Sequence[dict]) -> list | None:
    """The optional ids; None where an entry has none."""
    try:
        return list(map(operator.itemgetter("id"), entries))
    except KeyError:
        return None


def finite_boxes(box: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the numbers of boxes (N, 4), and their areas, are finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(box).all(1) & np.isfinite(box[:, 2] * box[:, 3])


def _ranks(entries: Sequence, key: str, rank: dict, table: np.ndarray | None) -> np.ndarray:
    ids = list(map(operator.itemgetter(key), entries))
    if table is not None:
        try:
            ranks = table[np.frombuffer(struct.pack(f"{len(ids)}Q", *ids), np.uint64)]
        except struct.error:
            pass  # 1.0 is the id 1 too, and pandas writes such ids
        else:
            if ranks.size and ranks.min() < 0:
                raise ValueError("an unknown id")
            return ranks
    return np.fromiter(map(rank.__getitem__, ids), np.int64, len(ids))


def _numbers(values: Iterable, size: int) -> np.ndarray:
    return np.frombuffer(struct.pack(f"{size}d", *values))


def _boxes(entries: Sequence) -> np.ndarray:
    values = list(map(operator.itemgetter("bbox"), entries))
    if not set(map(len, values)) <= {4}:
        raise ValueError("a box without 4 numbers")
    box = _numbers(itertools.chain.from_iterable(values), 4 * len(values)).reshape(-1, 4)
    if not finite_boxes(box).all() or (box[:, 2:] < 0).any():
        raise ValueError("a box that is none")
    return box


def _masks(entries: Sequence, image: np.ndarray, known: KnownIds) -> MaskColumn:
    values = list(map(operator.itemgetter("segmentation"), entries))
    counts = list(map(operator.itemgetter("counts"), values))
    if not set(map(type, counts)) <= {str, bytes}:
        raise ValueError("no compressed RLE")
    heights, widths = zip(*map(operator.itemgetter("size"), values), strict=True)
    pack, expected = struct.Struct(f"{len(counts)}q").pack, known.sizes[image].T
    if pack(*heights) != expected[0].tobytes() or pack(*widths) != expected[1].tobytes():
        raise ValueError("a mask of another size")
    return MaskColumn(counts, image, known.size_lists)


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
