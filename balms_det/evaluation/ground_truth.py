"""Ground truth of an evaluation: an LVIS- or COCO-format dataset, checked and in columns.

Images and categories are numbered by the rank of their ids, which is the order that the official
package visits them in, so that ties between images fall the same way.

Symbols: ``N`` images, ``K`` categories, ``M`` annotations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from balms_det.data.annotation_json import AnnotationFileError, read_annotation_json
from balms_det.data.masks import segmentation_to_rle


class _Image(msgspec.Struct, gc=False):
    id: int | str
    height: int
    width: int
    neg_category_ids: list[int] | None = None
    not_exhaustive_category_ids: list[int] | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str
    frequency: str | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    id: int | str | None = None
    iscrowd: int | bool | None = 0
    ignore: int | bool | None = 0


class _Mask:
    """A segmentation as it is written, its polygons in arrays: a quarter of a list's memory."""

    __slots__ = ("segmentation",)

    def __init__(self, segmentation: Any) -> None:
        if isinstance(segmentation, list):
            segmentation = [np.asarray(polygon, np.float64) for polygon in segmentation]
        self.segmentation = segmentation


class _WithMask(_Annotation, gc=False):
    segmentation: _Mask | None = None


_A = TypeVar("_A", bound=_Annotation)


class _File(msgspec.Struct, Generic[_A]):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_A]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """A dataset to evaluate on.

    Attributes:
        source: what to call it in an error: its path, or "ground truth".
        federated: LVIS rules; else (COCO format) every category is annotated on every image.
        image_ids: N ids, ascending.
        sizes: N (height, width).
        negative: N lists of the categories (ranks) verified absent; empty unless federated.
        not_exhaustive: N lists of the categories (ranks) not annotated exhaustively.
        category_ids: K ids, ascending.
        names: K class names.
        frequency: K labels "r", "c", "f", or None where a category has none.
        image: (M,) rank of the image.
        category: (M,) rank of the category.
        box: (M, 4) float64, x, y, width, height in pixels.
        area: (M,) float64, as annotated, in pixels.
        ignore: (M,) bool: neither a hit nor a miss.
        masks: M compressed RLEs; None unless they are asked for.
    """

    source: str
    federated: bool
    image_ids: list
    sizes: list[tuple[int, int]]
    negative: list[list[int]]
    not_exhaustive: list[list[int]]
    category_ids: list[int]
    names: list[str]
    frequency: list[str | None]
    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    area: np.ndarray
    ignore: np.ndarray
    masks: list[dict] | None

    def verified(self, image: np.ndarray, category: np.ndarray) -> np.ndarray:
        """Whether these categories are known to be, or not to be, on these images; (N,) bool."""
        if not self.federated:
            return np.ones(len(image), bool)
        table = np.zeros((len(self.image_ids), len(self.category_ids)), bool)
        table[self.image, self.category] = True
        for row, negative in zip(table, self.negative):
            row[negative] = True
        return table[image, category]


def read_ground_truth(source: Any, masks: bool) -> GroundTruth:
    """Read and check a dataset.

    ``ignore`` is taken as the official package takes it: in LVIS's format it is the annotation's
    own ``ignore``, and ``iscrowd`` means nothing; in COCO's format a crowd is ignored too. An
    annotation with an area of 0 or less is left out, as there.

    Args:
        source: path of a json, its loaded dict, or a ``lvis.LVIS``.
        masks: read the segmentations too.

    Raises:
        FileNotFoundError: no such file.
        AnnotationFileError: what is missing or wrong.
    """
    if isinstance(source, (str, bytes)) or hasattr(source, "__fspath__"):
        name = str(source)
        content = read_annotation_json(
            name, _File[_WithMask if masks else _Annotation], _decode_mask
        )
    else:
        name = "ground truth"
        content = _convert(getattr(source, "dataset", source), masks)
    _check_ids(name, content)
    return _columns(name, content, masks)


def _decode_mask(_: type, segmentation: Any) -> _Mask:
    return _Mask(segmentation)


def _convert(loaded: Any, masks: bool) -> _File:
    if not isinstance(loaded, Mapping):
        raise TypeError(
            "ground truth must be a path, a loaded annotation file (dict) or a lvis.LVIS, "
            f"not {type(loaded).__name__}."
        )
    try:
        file_type = _File[_WithMask if masks else _Annotation]
        return msgspec.convert(loaded, file_type, dec_hook=_decode_mask)
    except msgspec.ValidationError as error:
        raise AnnotationFileError(
            f"ground truth is not in LVIS or COCO format: {error} ($ is the whole dict)."
        ) from error


def _check_ids(name: str, content: _File) -> None:
    for what in ("images", "categories", "annotations"):
        ids = [entry.id for entry in getattr(content, what) if entry.id is not None]
        if len(set(ids)) != len(ids):
            twice, times = Counter(ids).most_common(1)[0]
            raise AnnotationFileError(f"{name}: id {twice!r} is listed {times} times in '{what}'.")
    for what in ("images", "categories"):
        if not getattr(content, what):
            raise AnnotationFileError(f"{name}: '{what}' is empty.")


def _columns(name: str, content: _File, masks: bool) -> GroundTruth:
    images = sorted(content.images, key=lambda image: image.id)
    categories = sorted(content.categories, key=lambda category: category.id)
    rank = {category.id: k for k, category in enumerate(categories)}
    federated = _is_federated(name, images, categories)
    image = _ranks(name, content.annotations, "image", [i.id for i in images])
    category = _ranks(name, content.annotations, "category", [c.id for c in categories])
    area = np.array([a.area for a in content.annotations], dtype=np.float64)
    kept = np.flatnonzero((area > 0) & (area < np.inf))
    annotations = [content.annotations[m] for m in kept]
    sizes = [(i.height, i.width) for i in images]
    return GroundTruth(
        source=name,
        federated=federated,
        image_ids=[i.id for i in images],
        sizes=sizes,
        negative=[_known(i.neg_category_ids, rank) for i in images],
        not_exhaustive=[_known(i.not_exhaustive_category_ids, rank) for i in images],
        category_ids=list(rank),
        names=[c.name for c in categories],
        frequency=[c.frequency for c in categories],
        image=image[kept],
        category=category[kept],
        box=np.array([a.bbox for a in annotations], dtype=np.float64).reshape(-1, 4),
        area=area[kept],
        ignore=np.array(
            [bool(a.ignore) or (bool(a.iscrowd) and not federated) for a in annotations], bool
        ),
        masks=_rles(name, annotations, image[kept], sizes) if masks else None,
    )


def _is_federated(name: str, images: list[_Image], categories: list[_Category]) -> bool:
    fields = ("neg_category_ids", "not_exhaustive_category_ids")
    if all(getattr(image, field) is None for image in images for field in fields):
        return False
    for image in images:
        for field in fields:
            if getattr(image, field) is None:
                raise AnnotationFileError(
                    f"{name}: image {image.id!r} has no '{field}', and other images have such "
                    "fields: LVIS's rules need them on every image, COCO-format data has none."
                )
    return True


def _ranks(name: str, annotations: list[_Annotation], what: str, ids: list) -> np.ndarray:
    rank = {entry: index for index, entry in enumerate(ids)}
    values = (getattr(annotation, f"{what}_id") for annotation in annotations)
    ranks = np.fromiter((rank.get(v, -1) for v in values), np.int64, len(annotations))
    if (ranks < 0).any():
        wrong = annotations[int(np.argmin(ranks))]
        raise AnnotationFileError(
            f"{name}: annotation {wrong.id!r} has {what}_id {getattr(wrong, f'{what}_id')!r}, "
            f"which the file does not list."
        )
    return ranks


def _known(category_ids: list[int] | None, rank: dict[int, int]) -> list[int]:
    """Ranks of the listed categories; an id that no category has changes nothing."""
    return [rank[category_id] for category_id in category_ids or () if category_id in rank]


def _rles(name: str, annotations: list, image: np.ndarray, sizes: list) -> list[dict]:
    rles = []
    for annotation, rank in zip(annotations, image.tolist()):
        if annotation.segmentation is None:
            raise AnnotationFileError(f"{name}: annotation {annotation.id!r} has no segmentation.")
        try:
            rles.append(segmentation_to_rle(annotation.segmentation.segmentation, *sizes[rank]))
        except (ValueError, KeyError, TypeError) as error:
            raise AnnotationFileError(
                f"{name}: annotation {annotation.id!r} has a broken segmentation: {error}"
            ) from error
    return rles
