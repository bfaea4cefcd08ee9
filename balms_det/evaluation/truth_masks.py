"""Are the segmentations of a ground truth such that they can be drawn? They stay as written.

Whatever draws them believes what it is given: a polygon with a NaN, or an RLE whose runs do not add
up, is found here, where its annotation can be named.
"""

from __future__ import annotations

import itertools

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
    for start in range(0, len(annotations), _CHUNK):
        part = annotations[start : start + _CHUNK]
        masks += _sound_polygons(part) or _one_by_one(name, part, image[start:], sizes)
    rles = [m for m, mask in enumerate(masks) if isinstance(mask.segmentation, dict)]
    broken = np.zeros(len(masks), bool)
    broken[rles] = ~runs_fit([masks[m].segmentation for m in rles])
    refuse(name, annotations, broken, "a broken segmentation: its runs do not add up to its size")
    return masks


def _sound_polygons(annotations: list) -> list[WrittenMask] | None:
    """The masks of annotations that all have polygons without a fault, looked at together."""
    masks = [annotation.segmentation for annotation in annotations]
    if None in masks:
        return None
    drawn = [mask.segmentation for mask in masks]
    if not all(isinstance(polygons, list) and polygons for polygons in drawn):
        return None
    outlines = list(itertools.chain.from_iterable(drawn))
    lengths = np.fromiter(map(len, outlines), np.int64, len(outlines))
    fit = (lengths > 4) & (lengths % 2 == 0)
    if not fit.all() or not (np.abs(np.frombuffer(b"".join(outlines))) <= MAX_COORDINATE).all():
        return None
    return masks


def _one_by_one(name: str, annotations: list, image: np.ndarray, sizes: list) -> list[WrittenMask]:
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
    return masks


def _checked(mask: WrittenMask, height: int, width: int) -> WrittenMask:
    polygons = mask.segmentation
    if isinstance(polygons, list):
        lengths = list(map(len, polygons))
        if not lengths or min(lengths) < 4 or any(length % 2 for length in lengths):
            raise ValueError(f"it has polygons of {lengths} numbers.")
        if min(lengths) > 4:
            check_polygons([polygon.tolist() for polygon in polygons])
            return mask
        # Two points are pycocotools' to draw or refuse, as in the official package.
    return WrittenMask(segmentation_to_rle(polygons, height, width))
