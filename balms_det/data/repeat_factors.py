"""Repeat factors: how often an epoch draws an image, from how scarce its classes are.

Symbols: N images, C classes; ``f_img[c]`` is the share of images that contain class c and
``f_inst[c]`` the share of all instances that are of class c; ``t`` is the threshold below which a
class is repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

import numpy as np


def class_repeat_factors(frequency, thresh: float, sqrt: bool = True) -> np.ndarray:
    """Factor of every class, ``max(1, sqrt(t / f))`` (LVIS, arXiv 1908.03195 v2, appendix B.2).

    Args:
        frequency: (C,) shares in [0, 1], of images (RFS) or from :func:`instance_aware_frequency`.
        thresh: ``t``; classes at least that frequent get factor 1.
        sqrt: without it the factor is ``max(1, t / f)``.

    Returns:
        (C,) float64, at least 1 and finite: a class with frequency 0 has no image to repeat, so 1.

    Raises:
        ValueError: ``thresh`` is negative or not finite.
    """
    if not 0 <= thresh < np.inf:
        raise ValueError(
            "The repeat threshold, DATALOADER.REPEAT_THRESHOLD, must be finite and not negative: "
            f"{thresh}."
        )
    frequency = np.asarray(frequency, dtype=np.float64)
    ratio = np.divide(thresh, frequency, out=np.ones_like(frequency), where=frequency > 0)
    return np.maximum(1.0, np.sqrt(ratio) if sqrt else ratio)


def instance_aware_frequency(image_frequency, instance_frequency) -> np.ndarray:
    """(C,) geometric mean ``sqrt(f_img * f_inst)``: the frequency of IRFS (arXiv 2305.08069)."""
    return np.sqrt(np.asarray(image_frequency, np.float64) * instance_frequency)


@dataclass(frozen=True)
class CategoryIncidence:
    """Which image contains which class, as flat arrays (1.27 million dicts are read once).

    ``pair_image`` and ``pair_category`` are (P,) int64: every (image, class) that occurs, once,
    sorted by image. ``image_count`` and ``instance_count`` are (C,) int64 with C the largest class
    id in use plus one. Crowd annotations count, as in Detectron2's own repeat factors.
    """

    num_images: int
    pair_image: np.ndarray
    pair_category: np.ndarray
    image_count: np.ndarray
    instance_count: np.ndarray

    @classmethod
    def from_dicts(cls, dataset_dicts: Sequence[dict]) -> CategoryIncidence:
        """Read Detectron2 dataset dicts; images without (or with no) annotations are legal."""
        annotations = [record.get("annotations") or () for record in dataset_dicts]
        lengths = np.fromiter(map(len, annotations), np.int64, len(annotations))
        category_of = map(itemgetter("category_id"), chain.from_iterable(annotations))
        category = np.fromiter(category_of, np.int64, int(lengths.sum()))
        if category.size and category.min() < 0:
            image = int(np.repeat(np.arange(len(lengths)), lengths)[category.argmin()])
            raise ValueError(
                f"category_id {category.min()} in {dataset_dicts[image].get('file_name')!r}: the "
                "ids in dataset dicts count from 0; check how the dataset was registered."
            )
        return cls.from_objects(np.repeat(np.arange(len(lengths)), lengths), category, len(lengths))

    @classmethod
    def from_objects(
        cls, image: np.ndarray, category: np.ndarray, num_images: int
    ) -> CategoryIncidence:
        """Count objects: (M,) the image of each, in [0, num_images), and (M,) its class."""
        num_classes = int(category.max()) + 1 if category.size else 0
        pairs = image * max(num_classes, 1) + category
        pairs.sort()  # np.unique hashes first, which takes several times as long here
        pairs = pairs[np.diff(pairs, prepend=-1) != 0]
        pair_image, pair_category = np.divmod(pairs, max(num_classes, 1))
        return cls(
            num_images=num_images,
            pair_image=pair_image,
            pair_category=pair_category,
            image_count=np.bincount(pair_category, minlength=num_classes),
            instance_count=np.bincount(category, minlength=num_classes),
        )

    @property
    def image_frequency(self) -> np.ndarray:
        """(C,) share of all images, empty ones included, that contain the class."""
        return self.image_count / max(self.num_images, 1)

    @property
    def instance_frequency(self) -> np.ndarray:
        """(C,) share of all instances that are of the class."""
        return self.instance_count / max(int(self.instance_count.sum()), 1)

    def max_over_categories(self, category_value, empty: float) -> np.ndarray:
        """(N,) float64: the largest value among an image's classes; ``empty`` for none."""
        result = np.full(self.num_images, -np.inf)
        np.maximum.at(result, self.pair_image, np.asarray(category_value)[self.pair_category])
        result[np.isneginf(result)] = empty
        return result
