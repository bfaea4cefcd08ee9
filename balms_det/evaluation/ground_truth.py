"""Ground truth of an evaluation: an LVIS- or COCO-format dataset, checked and in columns.

Images and categories are numbered by the rank of their ids, which is the order that the official
package visits them in, so that ties between images fall the same way.

Symbols: ``N`` images, ``K`` categories, ``M`` annotations.
"""

from __future__ import annotations

import functools
import itertools
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from balms_det.data.annotation_json import AnnotationFileError
from balms_det.data.masks import segmentation_to_rle
from balms_det.evaluation.truth_file import (
    TruthAnnotation,
    TruthCategory,
    TruthFile,
    TruthImage,
    WrittenMask,
    read_truth_file,
)
from balms_det.evaluation.truth_masks import checked_masks, refuse


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
        masks: M segmentations, checked: polygons of three and more points, or compressed RLEs; None
            unless they are asked for.
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
    return _columns(*read_truth_file(source, masks), masks)


def _columns(name: str, content: TruthFile, masks: bool) -> GroundTruth:
    images, categories = content.images, content.categories
    rank = {category.id: k for k, category in enumerate(categories)}
    federated = _is_federated(name, images, categories)
    image = _ranks(name, content.annotations, "image", [i.id for i in images])
    category = _ranks(name, content.annotations, "category", [c.id for c in categories])
    area = _numbers(content.annotations, "area")
    kept = np.flatnonzero((area > 0) & (area < np.inf))
    annotations = [content.annotations[m] for m in kept.tolist()]
    box = _boxes(annotations)
    refuse(name, content.annotations, np.isnan(area), "an area that is no number")
    refuse(name, annotations, ~np.isfinite(box).all(1), "a bbox that is not finite")
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
        box=box,
        area=area[kept],
        ignore=np.array(
            [bool(a.ignore) or (bool(a.iscrowd) and not federated) for a in annotations], bool
        ),
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
