"""The content of a LVIS- or COCO-format dataset, from a file or loaded, as evaluation reads it."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from balms_det.data.annotation_json import AnnotationFileError, read_annotation_json


class TruthImage(msgspec.Struct, gc=False):
    id: int | str
    height: int
    width: int
    neg_category_ids: list[int] | None = None
    not_exhaustive_category_ids: list[int] | None = None


class TruthCategory(msgspec.Struct, gc=False):
    id: int
    name: str
    frequency: str | None = None


class TruthAnnotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    id: int | str | None = None
    iscrowd: int | bool | None = 0
    ignore: int | bool | None = 0


class WrittenMask:
    """A segmentation as it is written, its polygons in arrays: a quarter of a list's memory."""

    __slots__ = ("segmentation",)

    def __init__(self, segmentation: Any) -> None:
        if isinstance(segmentation, list):
            segmentation = [array("d", polygon) for polygon in segmentation]
        self.segmentation = segmentation

    def as_written(self) -> Any:
        """Polygons as lists of numbers, or an RLE."""
        if isinstance(self.segmentation, list):
            return [polygon.tolist() for polygon in self.segmentation]
        return self.segmentation


class MaskedAnnotation(TruthAnnotation, gc=False):
    segmentation: WrittenMask | None = None


_A = TypeVar("_A", bound=TruthAnnotation)


class TruthFile(msgspec.Struct, Generic[_A]):
    images: list[TruthImage]
    categories: list[TruthCategory]
    annotations: list[_A]


def read_truth_file(source: Any, masks: bool) -> tuple[str, TruthFile]:
    """What to call a dataset in an error, and its content, whose ids are unique.

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
    _check_ids(name, content)
    return name, content


def _decode_mask(_: type, segmentation: Any) -> WrittenMask:
    return WrittenMask(segmentation)


def _convert(loaded: Any, content_type: type) -> TruthFile:
    if not isinstance(loaded, Mapping):
        raise TypeError(
            "ground truth must be a path, a loaded annotation file (dict) or a lvis.LVIS, "
            f"not {type(loaded).__name__}."
        )
    try:
        return msgspec.convert(loaded, content_type, dec_hook=_decode_mask)
    except msgspec.ValidationError as error:
        raise AnnotationFileError(
            f"ground truth is not in LVIS or COCO format: {error} ($ is the whole dict)."
        ) from error


def _check_ids(name: str, content: TruthFile) -> None:
    for what in ("images", "categories", "annotations"):
        ids = [entry.id for entry in getattr(content, what) if entry.id is not None]
        if len(set(ids)) != len(ids):
            twice, times = Counter(ids).most_common(1)[0]
            raise AnnotationFileError(f"{name}: id {twice!r} is listed {times} times in '{what}'.")
    for what in ("images", "categories"):
        if not getattr(content, what):
            raise AnnotationFileError(f"{name}: '{what}' is empty.")
