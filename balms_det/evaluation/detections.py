"""Detections in columns, and the limits on how many of them count."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balms_det.annotations.masks import rle_totals
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.rules import Limits


class MaskColumn(Sequence):
    """N compressed RLEs, ``{"size": [height, width], "counts"}``, that are put together on demand.

    Only the counts are held: a mask has the size of its image, and a dict and a list for each take
    more memory than they do.

    Args:
        counts: N strings or bytes.
        image: (N,) int64, ranks of images.
        sizes: [height, width] of every image by its rank.
    """

    def __init__(self, counts: list, image: np.ndarray, sizes: list[list[int]]) -> None:
        self.counts, self._image, self._sizes = counts, image, sizes

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, which):
        """An RLE, or a list of them for a slice."""
        if not isinstance(which, slice):
            size = self._sizes[self._image[which]]
            return {"size": list(size), "counts": self.counts[which]}
        rows = zip(self._image[which].tolist(), self.counts[which])
        return [{"size": self._sizes[image], "counts": counts} for image, counts in rows]

    def __iter__(self) -> Iterator[dict]:
        return iter(self[:])

    def pixels(self) -> np.ndarray:
        """(N,) int64: height x width."""
        sizes = np.array(self._sizes, np.int64).reshape(-1, 2)
        return (sizes[:, 0] * sizes[:, 1])[self._image]

    def take(self, kept: np.ndarray) -> MaskColumn:
        """The masks at these indices, in their order."""
        counts = [self.counts[n] for n in kept.tolist()]
        return MaskColumn(counts, self._image[kept], self._sizes)


_CHUNK = 1 << 12


class BrokenMaskError(ValueError):
    """The mask at ``index`` has an RLE that cannot be read; the message says why."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


@dataclass(frozen=True, eq=False)
class Detections:
    """N detections; images and categories are ranks of the ground truth's ids.

    Attributes:
        image: (N,) int64.
        category: (N,) int64; -1 for an unlisted one, which only uses up a place within a limit.
        score: (N,) float64, finite.
        box: (N, 4) float64, x, y, width, height in pixels; None where masks are evaluated.
        masks: of N detections, compressed RLEs; None where boxes are evaluated.
        area: (N,) float64 in pixels, of the mask or the box; None until it is measured.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    box: np.ndarray | None
    masks: MaskColumn | list[dict] | None
    area: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.score)

    @staticmethod
    def joined(parts: Sequence[Detections]) -> Detections:
        """The detections of one or more parts, their masks put together."""
        columns = zip(
            *([getattr(part, f.name) for f in dataclasses.fields(part)] for part in parts)
        )
        return Detections(*map(_join, columns))

    def take(self, kept: np.ndarray) -> Detections:
        """The detections at these ascending indices."""
        return self if len(kept) == len(self) else self.ordered(kept)

    def ordered(self, kept: np.ndarray) -> Detections:
        """The detections at these indices, in their order."""
        columns = {f.name: _take(getattr(self, f.name), kept) for f in dataclasses.fields(self)}
        return Detections(**columns)

    def part(self, which: slice) -> Detections:
        """Some detections in a row, their masks put together."""
        columns = (getattr(self, f.name) for f in dataclasses.fields(self))
        return Detections(*(None if column is None else column[which] for column in columns))

    def measured(self) -> Detections:
        """The same, with areas.

        Raises:
            BrokenMaskError: a mask whose RLE cannot be read.
        """
        box = self.box
        area = _mask_areas(self.masks) if box is None else box[:, 2] * box[:, 3]
        return dataclasses.replace(self, area=area)

    def with_area(self, coco: bool) -> Detections:
        """The same with areas; by LVIS's rules those that have one, by COCO's (``coco``) all.

        Raises:
            BrokenMaskError: a mask whose RLE cannot be read.
        """
        measured = self.measured()
        return measured if coco else measured.take(np.flatnonzero(measured.area > 0))


def limited_detections(truth: GroundTruth, detections: Detections, limits: Limits) -> Detections:
    """Those that count of some detections, in their order.

    First the limits. Then those of a category that is unlisted, or not verified on their image, are
    left out: they have used up a place within the limit. So have those without an area, which
    LVIS's rules leave out last (:func:`with_area`).
    """
    detections = within_limits(detections, limits)
    if detections.category.min(initial=0) < 0:
        detections = detections.take(np.flatnonzero(detections.category >= 0))
    return detections.take(np.flatnonzero(truth.verified(detections.image, detections.category)))


def within_limits(detections: Detections, limits: Limits) -> Detections:
    """The detections with the highest scores, in their order."""
    category = detections.category + 1  # unlisted ones are a group, too
    kept = best_of_each(category, detections.score, limits.per_category)
    detections = detections.take(kept)
    detections = detections.take(best_of_each(detections.image, detections.score, limits.per_image))
    most = np.bincount(detections.image, minlength=1).max()
    if most <= limits.per_pair or limits.per_pair < 0:
        return detections
    pair = detections.image * (category.max(initial=0) + 1) + detections.category + 1
    pair = np.unique(pair, return_inverse=True)[1]
    return detections.take(best_of_each(pair, detections.score, limits.per_pair))


def with_area(truth: GroundTruth, detections: Detections) -> Detections:
    """The same with areas; by LVIS's rules those that have one.

    Raises:
        ValueError: a mask whose RLE is broken; the message says which.
    """
    try:
        return detections.with_area(truth.coco)
    except BrokenMaskError as error:
        raise broken_mask(truth, detections, error.index, str(error)) from error


def evaluated_detections(truth: GroundTruth, detections: Detections, limits: Limits) -> Detections:
    """What the official package evaluates of some detections, in its order, with areas.

    Raises:
        ValueError: a mask whose RLE is broken.
    """
    return with_area(truth, limited_detections(truth, detections, limits))


def _take(column: Any, kept: np.ndarray) -> Any:
    if isinstance(column, MaskColumn):
        return column.take(kept)
    if isinstance(column, list):
        return [column[n] for n in kept.tolist()]
    return None if column is None else column[kept]


def _join(columns: Sequence[Any]) -> Any:
    if columns[0] is None:
        return None
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return list(itertools.chain.from_iterable(columns))


def _mask_areas(masks: Sequence[dict]) -> np.ndarray:
    """(N,) float64. Not by pycocotools, whose areas of 256 or more RLEs overflow with numpy 2.4,
    and which does not see that an RLE is broken."""
    import hotcoco

    areas = np.empty(len(masks))
    for start in range(0, len(masks), _CHUNK):
        part = masks[start : start + _CHUNK]
        pixels = np.array([mask["size"] for mask in part], np.int64).prod(axis=1)
        totals = rle_totals(part)
        short = np.flatnonzero(totals != pixels)[:1].tolist()
        whole = part[: short[0]] if short else part
        try:
            areas[start : start + len(whole)] = hotcoco.mask.area(whole)
        except ValueError:  # negative runs
            raise _broken(whole, start) from None
        for n in short:
            raise BrokenMaskError(start + n, _why(totals[n], pixels[n]))
    return areas


def _why(total: int, pixels: int) -> str:
    if total < 0:
        return "its counts are no numbers of runs"
    return f"its runs have {total} of {pixels} pixels"


def _broken(masks: list[dict], start: int) -> BrokenMaskError:
    """The error of the first broken one of these masks, of which there is one."""
    import hotcoco

    for index, mask in enumerate(masks, start):
        try:
            hotcoco.mask.area(mask)
        except ValueError as error:
            return BrokenMaskError(index, str(error))
    raise AssertionError("no mask is broken by itself")


def broken_mask(truth: GroundTruth, detections: Detections, n: int, why: str) -> ValueError:
    """The error that says which detection has a broken mask."""
    image, category = detections.image[n], detections.category[n]
    return ValueError(
        f"the detection of category {truth.category_ids[category]!r} on image "
        f"{truth.image_ids[image]!r} with the score {float(detections.score[n])!r} has a broken "
        f"segmentation: {why}. Were its counts cut off or changed on the way?"
    )


def distinct(values: np.ndarray) -> np.ndarray:
    """The different ones of whole numbers, ascending; ``numpy.unique`` hashes, and is slower."""
    ordered = np.sort(values)
    return ordered[np.diff(ordered, prepend=ordered[:1] - 1) != 0]


def best_of_each(group: np.ndarray, score: np.ndarray, limit: int) -> np.ndarray:
    """Indices, ascending, of the ``limit`` highest scores of each group.

    Of equal scores the earlier ones stay, as with the stable sort of the official package.

    Args:
        group: (N,) whole numbers from 0.
        score: (N,) finite scores.
        limit: a negative one is no limit.
    """
    sizes = np.bincount(group, minlength=1)
    if limit < 0 or sizes.max() <= limit:
        return np.arange(len(group))
    order = np.lexsort((-score, group))
    starts = np.cumsum(sizes) - sizes
    place = np.arange(len(group)) - np.repeat(starts, sizes)
    return np.sort(order[place < limit])
