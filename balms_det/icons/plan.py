"""What each image shows, before anything is drawn: the long tail and who meets whom.

`K` is the number of classes, `N` the number of images.
"""

import numpy as np

TRAIN_CLASSES_PER_IMAGE = 2.7
VAL_CLASSES_PER_IMAGE = 3.3
# Probability that a class present in an image has 1, 2, 3, 4 instances there.
_REPEATS = (0.72, 0.18, 0.07, 0.03)


def long_tail(num_classes: int, num_images: int) -> np.ndarray:
    """Image counts `(K,)`, descending: a third of the classes each frequent, common and rare.

    Frequent (above 100 images) and common (11-100) counts lie on straight lines on a log scale;
    rare ones (1-10) on one on a square-root scale, which spreads them as those of LVIS v1 train.
    Where the images can show less in all, every count shrinks alike.
    """
    top = max(1.0, 0.27 * num_images)
    rank = (np.arange(num_classes) + 0.5) / num_classes * 3
    frequent = _interpolate(rank, top, min(110.0, top), np.log, np.exp)
    common = _interpolate(rank - 1, min(95.0, top), min(11.4, top), np.log, np.exp)
    rare = _interpolate(rank - 2, min(10.5, top), min(0.6, top), np.sqrt, np.square)
    counts = np.select([rank < 1, rank < 2], [frequent, common], rare)
    budget = TRAIN_CLASSES_PER_IMAGE * num_images
    if counts.sum() > budget:
        counts *= budget / counts.sum()
    return np.maximum(1, np.rint(counts)).astype(int)


def _interpolate(at, start: float, end: float, scale, unscale) -> np.ndarray:
    """From `start` at 0 to `end` at 1, straight on the given scale, flat beyond."""
    return unscale(np.interp(at, [0, 1], [scale(start), scale(end)]))


def balanced(num_classes: int, num_images: int) -> np.ndarray:
    """Equal image counts `(K,)` for validation."""
    each = round(VAL_CLASSES_PER_IMAGE * num_images / num_classes)
    return np.full(num_classes, min(num_images, max(1, each)))


def assign_classes(counts: np.ndarray, num_images: int, rng: np.random.Generator) -> list[list]:
    """Spread classes over images so that class `c` is in exactly `counts[c]` of them.

    Fuller images are less likely to receive one more, so that scenes are alike in size.

    Returns:
        For each image, its class indices with repeats: an index occurs once per instance.
    """
    load = np.zeros(num_images)
    images: list[list[int]] = [[] for _ in range(num_images)]
    for c, count in enumerate(counts):
        # Gumbel top-k: `count` images without replacement, probability falling with their load.
        keys = -1.1 * load + rng.gumbel(size=num_images)
        chosen = np.argsort(-keys, kind="stable")[:count]
        load[chosen] += 1
        repeats = rng.choice(len(_REPEATS), size=len(chosen), p=_REPEATS) + 1
        for i, n in zip(chosen, repeats):
            images[i] += [c] * int(n)
    return images


def negatives(present: set[int], family: np.ndarray, rng: np.random.Generator, extra: int = 4):
    """Sorted class indices that an image is known not to show: look-alikes, and some at random.

    Args:
        present: classes drawn in the image, annotated or not.
        family: `(K,)` family index of each class.
        extra: random classes added to the look-alikes.
    """
    absent = np.setdiff1d(np.arange(len(family)), sorted(present))
    relatives = np.flatnonzero(np.isin(family, family[sorted(present)]))
    relatives = np.intersect1d(relatives, absent)
    if len(relatives) > 12:
        relatives = rng.choice(relatives, 12, replace=False)
    others = rng.choice(absent, min(extra, len(absent)), replace=False)
    return sorted({int(c) for c in (*relatives, *others)})
