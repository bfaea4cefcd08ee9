"""The content of a LVIS- or COCO-format dataset, from a file or loaded, as evaluation reads it."""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import msgspec

from balms_det.data.annotation_json import (
    AnnotationFileError,
    Id,
    Side,
    read_annotation_json,
)
from balms_det.data.entry_ids import check_unique, sorted_by_id


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
