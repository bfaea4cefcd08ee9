"""Ground truth of an evaluation: an LVIS- or COCO-format dataset, checked and in columns.

Images and categories are numbered by the rank of their ids, which is the order that the official
package visits them in, so that ties between images fall the same way.

Symbols: ``N`` images, ``K`` categories, ``M`` annotations.

Whatever draws them believes what it is given: a polygon with a NaN, or an RLE whose runs do not add
up, is found here, where its annotation can be named.

"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
import os
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from balms_det.annotations.boxes import check_boxes
from balms_det.annotations.masks import (
    MAX_COORDINATE,
    check_polygons,
    longest_outline,
    outline_lengths,
    runs_fit,
    segmentation_to_rle,
)
from balms_det.annotations.read import (
    AnnotationFileError,
    Id,
    Side,
    check_unique,
    read_annotation_json,
    sorted_by_id,
)


class TruthImage(msgspec.Struct, gc=False):
    id: Id | str
    height: Side
    width: Side
    neg_category_ids: list[Id] | None = None
    not_exhaustive_category_ids: list[Id] | None = None


class TruthCategory(msgspec.Struct, gc=False):
    id: Id
    name: str
    frequency: str | None = None


class TruthAnnotation(msgspec.Struct, gc=False):
    image_id: Id | str
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float
    id: Id | str | None = None
    iscrowd: int | bool | None = 0
    ignore: int | bool | None = 0


class WrittenMask:
    """A segmentation as it is written, its polygons in arrays: a quarter of a list's memory.

    Attributes:
        segmentation: polygons, ``array``s of x and y by turns, which hotcoco takes as they are, or
            an RLE.
    """

    __slots__ = ("segmentation",)

    def __init__(self, segmentation: Any) -> None:
        if isinstance(segmentation, list):
            segmentation = [array("d", polygon) for polygon in segmentation]
        self.segmentation = segmentation


class MaskedAnnotation(TruthAnnotation, gc=False):
    segmentation: WrittenMask | None = None


_A = TypeVar("_A", bound=TruthAnnotation)


class TruthFile(msgspec.Struct, Generic[_A]):
    images: list[TruthImage]
    categories: list[TruthCategory]
    annotations: list[_A]


def read_truth_file(source: Any, masks: bool) -> tuple[str, TruthFile]:
    """What to call a dataset in an error, and its content: images and categories in ascending
    order of their ids, and no id twice.

    Args:
        source: path of a json, its loaded dict, or a ``lvis.LVIS``.
        masks: read the segmentations too.

    Raises:
        FileNotFoundError: no such file.
        AnnotationFileError: what is missing or wrong.
        TypeError: ``source`` is nothing of these.
    """
    content_type = TruthFile[MaskedAnnotation if masks else TruthAnnotation]
    if isinstance(source, (str, os.PathLike)):
        name = str(source)
        content = read_annotation_json(name, content_type, _decode_mask)
    else:
        name = "ground truth"
        content = _convert(getattr(source, "dataset", source), content_type)
    for what in ("images", "categories"):
        setattr(content, what, sorted_by_id(name, what, getattr(content, what)))
    ids = [annotation.id for annotation in content.annotations if annotation.id is not None]
    check_unique(name, "annotations", ids)
    return name, content


def _decode_mask(_: type, segmentation: Any) -> WrittenMask:
    try:
        return WrittenMask(segmentation)
    except OverflowError as error:  # json has whole numbers without end
        raise ValueError(str(error)) from error
    except TypeError as error:
        raise ValueError(
            f"a polygon is one list of numbers [x1, y1, x2, y2, ...]: {error}"
        ) from error


def _convert(loaded: Any, content_type: type) -> TruthFile:
    if not isinstance(loaded, Mapping):
        raise TypeError(
            "ground truth must be a path, a loaded annotation file (dict) or a lvis.LVIS, "
            f"not {type(loaded).__name__}."
        )
    try:
        return msgspec.convert(loaded, content_type, dec_hook=_decode_mask)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise AnnotationFileError(
            f"ground truth is not in LVIS or COCO format: {error} ($ is the whole dict)."
        ) from error


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """A dataset to evaluate on.

    Attributes:
        source: what to call it in an error: its path, or "ground truth".
        coco: evaluated by COCO's rules, else by LVIS's.
        federated: only verified categories count on an image; else every category is annotated on
            every image.
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
        crowd: (M,) bool: it takes any number of detections, by the share of them inside it.
        masks: M segmentations, checked: polygons of three and more points, or compressed RLEs; None
            unless they are asked for.
    """

    source: str
    coco: bool
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
    crowd: np.ndarray
    masks: list[WrittenMask] | None

    @functools.cached_property
    def rles(self) -> list[dict] | None:
        """M compressed RLEs; None without masks. (hotcoco draws polygons itself, quicker.)"""
        if self.masks is None:
            return None
        return [
            segmentation_to_rle(mask.segmentation, *self.sizes[n])
            for mask, n in zip(self.masks, self.image.tolist())
        ]

    def of_images(self, image_ids: Collection) -> GroundTruth:
        """The same with these images alone; ids that it does not have are left aside."""
        wanted = set(image_ids)
        images = [n for n, image_id in enumerate(self.image_ids) if image_id in wanted]
        rank = np.full(len(self.image_ids), -1)
        rank[images] = np.arange(len(images))
        kept = np.flatnonzero(rank[self.image] >= 0)
        columns = {
            c: getattr(self, c)[kept] for c in ("category", "box", "area", "ignore", "crowd")
        }
        lists = {
            name: [getattr(self, name)[n] for n in images]
            for name in ("image_ids", "sizes", "negative", "not_exhaustive")
        }
        masks = None if self.masks is None else [self.masks[m] for m in kept.tolist()]
        image = rank[self.image[kept]]
        return dataclasses.replace(self, **lists, **columns, image=image, masks=masks)

    def verified(self, image: np.ndarray, category: np.ndarray) -> np.ndarray:
        """Whether these categories are known to be, or not to be, on these images; (N,) bool."""
        return self._verified[image, category] if self.federated else np.ones(len(image), bool)

    @functools.cached_property
    def _verified(self) -> np.ndarray:
        """(N, K) bool."""
        table = np.zeros((len(self.image_ids), len(self.category_ids)), bool)
        table[self.image, self.category] = True
        of_image = np.repeat(np.arange(len(table)), list(map(len, self.negative)))
        table[of_image, list(itertools.chain.from_iterable(self.negative))] = True
        return table


def read_ground_truth(source: Any, masks: bool, rule: str = "default") -> GroundTruth:
    """Read and check a dataset.

    Annotations are taken as the official package of the rules takes them. By LVIS's rules an
    annotation is ignored for its own ``ignore``, and ``iscrowd`` means nothing (in COCO's format a
    crowd is ignored too); one with an area of 0 or less is left out. By COCO's rules a crowd is
    ignored and nothing else is, and every annotation stays.

    Args:
        source: path of a json, its loaded dict, or a ``lvis.LVIS``.
        masks: read the segmentations too.
        rule: see ``rules``.

    Raises:
        FileNotFoundError: no such file.
        AnnotationFileError: what is missing or wrong.
    """
    return _columns(*read_truth_file(source, masks), masks, rule)


def _columns(name: str, content: TruthFile, masks: bool, rule: str) -> GroundTruth:
    images, categories = content.images, content.categories
    rank = {category.id: k for k, category in enumerate(categories)}
    federated = _is_federated(name, images, categories) and rule != "coco"
    coco = not federated and rule in ("default", "coco")
    image = _ranks(name, content.annotations, "image", [i.id for i in images])
    category = _ranks(name, content.annotations, "category", [c.id for c in categories])
    area = _numbers(content.annotations, "area")
    kept = np.flatnonzero(((area > 0) & (area < np.inf)) | coco)
    annotations = [content.annotations[m] for m in kept.tolist()]
    box = _boxes(annotations)
    refuse(name, content.annotations, np.isnan(area), "an area that is no number")
    sizes = [(i.height, i.width) for i in images]
    check_boxes(
        name,
        box,
        np.array(sizes, np.int64)[image[kept]],
        lambda m: f"annotation {annotations[m].id!r}",
    )
    crowd = np.array([bool(a.iscrowd) and not federated for a in annotations], bool)
    own = np.array([bool(a.ignore) and not coco for a in annotations], bool)
    return GroundTruth(
        source=name,
        coco=coco,
        federated=federated,
        image_ids=[i.id for i in images],
        sizes=sizes,
        negative=[_known(i.neg_category_ids, rank) if federated else [] for i in images],
        not_exhaustive=[
            _known(i.not_exhaustive_category_ids, rank) if federated else [] for i in images
        ],
        category_ids=list(rank),
        names=[c.name for c in categories],
        frequency=[c.frequency for c in categories],
        image=image[kept],
        category=category[kept],
        box=box,
        area=area[kept],
        ignore=own | crowd,
        crowd=crowd & coco,
        masks=checked_masks(name, annotations, image[kept], sizes) if masks else None,
    )


def _numbers(annotations: list[TruthAnnotation], name: str) -> np.ndarray:
    values = map(operator.attrgetter(name), annotations)
    return np.fromiter(values, np.float64, len(annotations))


def _boxes(annotations: list[TruthAnnotation]) -> np.ndarray:
    values = itertools.chain.from_iterable(map(operator.attrgetter("bbox"), annotations))
    return np.fromiter(values, np.float64, 4 * len(annotations)).reshape(-1, 4)


def _is_federated(name: str, images: list[TruthImage], categories: list[TruthCategory]) -> bool:
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


def _ranks(name: str, annotations: list[TruthAnnotation], what: str, ids: list) -> np.ndarray:
    rank = {entry: index for index, entry in enumerate(ids)}
    values = list(map(operator.attrgetter(f"{what}_id"), annotations))
    try:
        return np.fromiter(map(rank.__getitem__, values), np.int64, len(values))
    except KeyError:
        wrong = next(a for a, value in zip(annotations, values) if value not in rank)
        raise AnnotationFileError(
            f"{name}: annotation {wrong.id!r} has {what}_id {getattr(wrong, f'{what}_id')!r}, "
            f"which the file does not list."
        ) from None


def _known(category_ids: list[int] | None, rank: dict[int, int]) -> list[int]:
    """Ranks of the listed categories; an id that no category has changes nothing."""
    return [rank[category_id] for category_id in category_ids or () if category_id in rank]


# Masks whose polygons are looked at together.
_CHUNK = 4096


def refuse(name: str, annotations: list[TruthAnnotation], bad: np.ndarray, what: str) -> None:
    """Raise AnnotationFileError, which names the first annotation that is ``bad``, (M,) bool."""
    if bad.any():
        wrong = annotations[int(bad.argmax())]
        raise AnnotationFileError(f"{name}: annotation {wrong.id!r} has {what}.")


def checked_masks(
    name: str, annotations: list, image: np.ndarray, sizes: list
) -> list[WrittenMask]:
    """The masks of M annotations.

    Args:
        name: what to call the dataset in an error.
        annotations: M of them, with ``segmentation``.
        image: (M,) rank of each one's image.
        sizes: (height, width) of the images.

    Raises:
        AnnotationFileError: a segmentation is missing, or cannot be drawn.
    """
    masks = []
    for start in range(0, len(annotations), _CHUNK):
        part = annotations[start : start + _CHUNK]
        of_part = [sizes[n] for n in image[start : start + _CHUNK].tolist()]
        masks += _sound_polygons(part, of_part) or _one_by_one(name, part, of_part)
    rles = [m for m, mask in enumerate(masks) if isinstance(mask.segmentation, dict)]
    broken = np.zeros(len(masks), bool)
    broken[rles] = ~runs_fit([masks[m].segmentation for m in rles])
    refuse(name, annotations, broken, "a broken segmentation: its runs do not add up to its size")
    return masks


def _sound_polygons(annotations: list, sizes: list) -> list[WrittenMask] | None:
    """The masks of annotations that all have polygons without a fault, looked at together.

    ``sizes`` are the (height, width) of each one's image.
    """
    masks = [annotation.segmentation for annotation in annotations]
    if None in masks:
        return None
    drawn = [mask.segmentation for mask in masks]
    if not all(isinstance(polygons, list) and polygons for polygons in drawn):
        return None
    outlines = list(itertools.chain.from_iterable(drawn))
    lengths = np.fromiter(map(len, outlines), np.int64, len(outlines))
    fit = (lengths > 4) & (lengths % 2 == 0)
    numbers = np.frombuffer(b"".join(outlines))
    if not fit.all() or not (np.abs(numbers) <= MAX_COORDINATE).all():
        return None
    longest = np.repeat([longest_outline(*size) for size in sizes], list(map(len, drawn)))
    return masks if (outline_lengths(numbers, lengths) <= longest).all() else None


def _one_by_one(name: str, annotations: list, sizes: list) -> list[WrittenMask]:
    masks = []
    for annotation, size in zip(annotations, sizes):
        if annotation.segmentation is None:
            raise AnnotationFileError(
                f"{name}: annotation {annotation.id!r} has no segmentation, which mask AP needs "
                "(box AP does not: iou_type 'bbox', or MODEL.MASK_ON False in training)."
            )
        try:
            masks.append(_checked(annotation.segmentation, *size))
        except (ValueError, KeyError, TypeError) as error:
            raise AnnotationFileError(
                f"{name}: annotation {annotation.id!r} has a broken segmentation: {error}"
            ) from error
    return masks


def _checked(mask: WrittenMask, height: int, width: int) -> WrittenMask:
    polygons = mask.segmentation
    if isinstance(polygons, list):
        check_polygons([polygon.tolist() for polygon in polygons], height, width)
        return mask
    return WrittenMask(segmentation_to_rle(polygons, height, width))
