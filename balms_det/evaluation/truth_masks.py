"""Are the segmentations of a ground truth such that they can be drawn? They stay as written.

Whatever draws them believes what it is given: a polygon with a NaN, or an RLE whose runs do not add
up, is found here, where its annotation can be named.
"""

from __future__ import annotations

import numpy as np

from balms_det.data.annotation_json import AnnotationFileError
from balms_det.data.masks import MAX_COORDINATE, check_polygons, segmentation_to_rle
from balms_det.data.rle import runs_fit
from balms_det.evaluation.truth_file import TruthAnnotation, WrittenMask

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
    for annotation, rank in zip(annotations, image.tolist()):
        if annotation.segmentation is None:
            raise AnnotationFileError(f"{name}: annotation {annotation.id!r} has no segmentation.")
        try:
            masks.append(_checked(annotation.segmentation, *sizes[rank]))
        except (ValueError, KeyError, TypeError) as error:
            raise AnnotationFileError(
                f"{name}: annotation {annotation.id!r} has a broken segmentation: {error}"
            ) from error
    _check_polygons(name, annotations, masks)
    rles = [m for m, mask in enumerate(masks) if isinstance(mask.segmentation, dict)]
    broken = np.zeros(len(masks), bool)
    broken[rles] = ~runs_fit([masks[m].segmentation for m in rles])
    refuse(name, annotations, broken, "a broken segmentation: its runs do not add up to its size")
    return masks


def _check_polygons(name: str, annotations: list, masks: list[WrittenMask]) -> None:
    for start in range(0, len(masks), _CHUNK):
        part = [m.segmentation for m in masks[start : start + _CHUNK]]
        outlines = [p for polygons in part if isinstance(polygons, list) for p in polygons]
        if not outlines or (np.abs(np.concatenate(outlines)) <= MAX_COORDINATE).all():
            continue
        for annotation, mask in zip(annotations[start:], masks[start : start + _CHUNK]):
            try:
                check_polygons(mask.as_written() if isinstance(mask.segmentation, list) else [])
            except ValueError as error:
                raise AnnotationFileError(
                    f"{name}: annotation {annotation.id!r} has a broken segmentation: {error}"
                ) from error


def _checked(mask: WrittenMask, height: int, width: int) -> WrittenMask:
    polygons = mask.segmentation
    if isinstance(polygons, list):
        lengths = list(map(len, polygons))
        if not lengths or min(lengths) < 4 or any(length % 2 for length in lengths):
            raise ValueError(f"it has polygons of {lengths} numbers.")
        if min(lengths) > 4:
            return mask
        # Two points are pycocotools' to draw or refuse, as in the official package.
    return WrittenMask(segmentation_to_rle(polygons, height, width))
