"""Results as detections of whole images, some images at a time, so that they can be matched while
the others are read.

It takes results without a fault that have the detections of an image in a row, as frameworks write
them. All others have to be read as a whole first: :class:`ReadWhole`.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from balms_det.evaluation.detections import Detections, limited_detections
from balms_det.evaluation.ground_truth import GroundTruth
from balms_det.evaluation.known_ids import KnownIds
from balms_det.evaluation.result_chunks import result_chunks
from balms_det.evaluation.result_columns import Columns
from balms_det.evaluation.sound_columns import sound_columns

# Entries that are looked at together, about. Their objects stay in the processor's cache between
# one look and the next, which is worth a tenth of the whole time.
_PIECE = 1 << 11
_PART = 1 << 16  # entries that are matched together, about
_MOST_OF_AN_IMAGE = 1 << 14
_KEYS = ("id", "image_id", "category_id", "score")  # and a box or a mask


class ReadWhole(Exception):
    """These results cannot be evaluated in parts."""


def result_parts(
    results: Any, truth: GroundTruth, iou_type: str, per_image: int
) -> Iterator[Detections]:
    """The detections that count of each image (``limited_detections``), with areas.

    Args:
        results: a list of entries, or the path of its json.
        truth: what they are evaluated on.
        iou_type: "bbox" or "segm".
        per_image: the highest scores of an image that count; a negative one is no limit.

    Yields:
        Detections of some images, in the order of the results; no image twice.

    Raises:
        ReadWhole: an entry may have a fault, detections of an image are not in a row, or there are
            none.
        BrokenMaskError: a mask whose RLE cannot be read.
        FileNotFoundError, ResultsError: see ``result_chunks``.
    """
    key = "bbox" if iou_type == "bbox" else "segmentation"
    reader = _PartReader(truth, [key], per_image)
    gathered, size = [], 0
    in_memory = isinstance(results, (list, tuple))
    # A list is cut here alone: to cut it into chunks before would copy it twice.
    chunks = [results] if in_memory else result_chunks(results, (*_KEYS, key))
    for piece in _whole_images(chunks):
        gathered.append(reader.read(piece))
        size += len(piece)
        if size >= _PART:
            yield Detections.joined(gathered)
            gathered, size = [], 0
    reader.finish()
    if gathered:
        yield Detections.joined(gathered)


class _PartReader:
    """Reads pieces of results; each has all entries of its images."""

    def __init__(self, truth: GroundTruth, keys: list[str], per_image: int) -> None:
        self._truth, self._known = truth, KnownIds.of(truth)
        self._keys, self._per_image = keys, per_image
        self._seen: set[int] = set()
        self._entries = 0
        self._ids: list | None = []  # None: not all entries have one, so they mean nothing

    def read(self, piece: Sequence) -> Detections:
        columns = sound_columns(piece, self._entries, self._known, self._keys)
        if columns is None:
            raise ReadWhole
        self._entries += len(piece)
        self._see(columns)
        detections = Detections(
            columns.image, columns.category, columns.score, columns.box, columns.masks
        )
        limited = limited_detections(self._truth, detections, self._per_image, -1)
        return limited.part(slice(None)).with_area()

    def _see(self, columns: Columns) -> None:
        image = columns.image
        firsts = np.flatnonzero(image[1:] != image[:-1]) + 1
        images = [int(image[0]), *image[firsts].tolist()]
        if len(set(images)) < len(images) or not self._seen.isdisjoint(images):
            raise ReadWhole
        self._seen.update(images)
        if columns.ids is None:
            self._ids = None
        elif self._ids is not None:
            self._ids += columns.ids

    def finish(self) -> None:
        if not self._entries or (self._ids and len(set(self._ids)) < self._entries):
            raise ReadWhole


def _whole_images(chunks: Iterable[Sequence]) -> Iterator[Sequence]:
    """Pieces of the entries in these chunks that end where the image changes."""
    rest: list = []
    for chunk in chunks:
        entries, start = [*rest, *chunk] if rest else chunk, 0
        while (end := _image_end(entries, start + _PIECE)) < len(entries):
            yield entries[start:end]
            start = end
        rest = entries[start:]
    if rest:
        yield rest


def _image_end(entries: Sequence, start: int) -> int:
    """The first place from ``start`` on whose entry has another image than the one before it, if
    the entries of an image are in a row."""
    if start >= len(entries):
        return start
    try:
        image = entries[start - 1]["image_id"]
        end = bisect.bisect(entries, False, start, key=lambda entry: entry["image_id"] != image)
    except (LookupError, TypeError, ValueError):
        raise ReadWhole from None
    if end - start > _MOST_OF_AN_IMAGE:
        raise ReadWhole
    return end
