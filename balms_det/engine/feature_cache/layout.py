"""The names in a feature cache on disk. ``docs/feature_cache.md`` describes the format.

Symbols: ``N`` RoIs of a shard, ``D`` width of the feature that the classifier reads, ``K`` classes,
``s`` number of the box head (0, or the stage of a cascade), ``n`` images of a shard.
"""

from __future__ import annotations

import torch

FORMAT = "balms_det feature cache"
VERSION = 1
MANIFEST = "manifest.json"

# What a cache is for: training a classifier, or evaluating one.
TRAIN, EVAL = "train", "eval"

# Columns of a shard for training, for every stage s.
FEATURES = "features"  # (N, D) float16 or float32
GT_CLASSES = "gt_classes"  # (N,) int32, background is K
IOUS = "ious"  # (N,) float32, with the best matching object
BOXES = "boxes"  # (N, 4) float32, x0 y0 x1 y1 in pixels of the network's input
IMAGE = "image"  # (N,) int32, index into the manifest's image_ids
OBJECTS = "objects"  # (N,) int64, the object a RoI was matched to, -1 for background
EXTRA_CLASSES = "extra_classes"  # (N, M) int32, other classes of that object, padded with -1
ROI_COLUMNS = (FEATURES, GT_CLASSES, IOUS, BOXES, IMAGE, OBJECTS, EXTRA_CLASSES)

# Columns of a shard for evaluation, beside the features of every stage.
LAST_BOXES = "boxes"  # (N, 4) float32, of the last stage, where they do not depend on the class
PROPOSALS = "proposals"  # (N, 4) float32, what the last stage started from, where they do
OFFSETS = "offsets"  # (n + 1,) int64: the RoIs of image i are offsets[i] to offsets[i + 1]
SIZES = "sizes"  # (n, 4) int32: height and width in the dataset, height and width of the input

# An object's number is `example * OBJECT_STRIDE + its place in the ground truth`, where the
# example of an image and a view is `view * images + image`.
OBJECT_STRIDE = 2**20

DTYPES = {"float16": torch.float16, "float32": torch.float32}


def column(stage: int, name: str) -> str:
    """The full name of a column of one stage."""
    return f"{stage}/{name}"


def shard_name(number: int) -> str:
    """The file name of a shard."""
    return f"shard-{number:05d}.safetensors"


class FeatureCacheError(ValueError):
    """A folder that is no feature cache, a damaged one, or one of something else."""
