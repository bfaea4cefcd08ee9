"""What a feature cache says of itself: ``manifest.json``, written last.

Symbols: ``N`` RoIs of a shard, ``D`` width of the feature that the classifier reads, ``K`` classes,
``s`` number of the box head (0, or the stage of a cascade), ``n`` images of a shard.

"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec
import torch

from balms_det.data.class_stats import ClassStats
from balms_det.utils.files import write_atomically

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


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset by name, and the SHA-256 of its annotations."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the content of a cache follows from: with the same settings, the same bytes.

    Attributes:
        purpose: "train" or "eval".
        weights_sha256: of the checkpoint file.
        model_sha256: of the part of the config that the features depend on.
        datasets: what the images are of.
        num_images: how many images.
        images_sha256: of their ids.
        num_classes: K.
        class_names: K names, None where the dataset has none.
        views: passes over the images.
        augmented: whether each pass has random numbers of its own for the training augmentation;
            without, there is one pass over the images as in testing.
        background: background RoIs kept of an image in a pass, -1 for all.
        seed: of augmentation and of the choice of background RoIs.
        dtype: of features, "float16" or "float32".
        shard_images: images of a shard; the last of a view may have fewer.
    """

    purpose: str
    weights_sha256: str
    model_sha256: str
    datasets: tuple[Source, ...]
    num_images: int
    images_sha256: str
    num_classes: int
    class_names: tuple[str, ...] | None
    views: int
    augmented: bool
    background: int
    seed: int
    dtype: str
    shard_images: int

    def digest(self) -> str:
        """SHA-256 of all of them; every shard carries it."""
        own = {field.name: getattr(self, field.name) for field in fields(Settings)}
        return hashlib.sha256(msgspec.json.encode(own)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard.

    Attributes:
        name: of the file.
        view, start, stop: it holds images ``start`` to ``stop - 1`` in that view.
        bytes, sha256: of the file.
        rois: RoIs of every stage.
        sampled: by stage, how many foreground RoIs, and how many in all, the detector's own RoI
            sampler would have taken of these images; in later stages of a cascade an estimate.
    """

    name: str
    view: int
    start: int
    stop: int
    bytes: int
    sha256: str
    rois: tuple[int, ...]
    sampled: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """The counts of the model's training set; see :class:`balms_det.data.ClassStats`."""

    image_count: tuple[int, ...]
    instance_count: tuple[int, ...]
    num_images: int
    frequency: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Manifest(Settings):
    """The settings of a cache, and what it came out as.

    Attributes:
        format, version: of the layout.
        config: the detector's whole config, as YAML.
        class_counts: of the detector's training set.
        image_ids: ``num_images`` ids in the dataset.
        feature_dim: D.
        shards: in the order of view and images.
    """

    format: str = FORMAT
    version: int = VERSION
    config: str
    class_counts: ClassCounts
    image_ids: tuple[int | str, ...]
    feature_dim: int
    shards: tuple[ShardEntry, ...]

    @property
    def num_stages(self) -> int:
        """Box heads: 1, or the stages of a cascade."""
        return len(self.shards[0].rois)

    def num_rois(self, stage: int = 0) -> int:
        """RoIs of a stage."""
        return sum(shard.rois[stage] for shard in self.shards)

    def foreground_share(self, stage: int = 0) -> float:
        """The share of foreground among the RoIs that the detector's own sampler takes."""
        foreground, total = (sum(s.sampled[stage][i] for s in self.shards) for i in (0, 1))
        return foreground / total if total else 0.0

    def rois_per_image(self, stage: int = 0) -> float:
        """How many RoIs the detector's own sampler takes of an image, on average."""
        return sum(s.sampled[stage][1] for s in self.shards) / (self.num_images * self.views)

    def class_stats(self) -> ClassStats:
        """Class statistics that a classifier is trained with."""
        counts = self.class_counts
        return ClassStats(
            counts.image_count,
            counts.instance_count,
            counts.num_images,
            self.class_names,
            counts.frequency,
        )

    def write(self, folder: Path) -> None:
        """Write it into the folder of the cache."""
        content = msgspec.json.format(msgspec.json.encode(self), indent=1)
        write_atomically(Path(folder) / MANIFEST, content)


class _Head(msgspec.Struct):
    format: str = ""
    version: int = 0


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a cache.

    Raises:
        FeatureCacheError: there is none, it is none of ours, or of another version.
    """
    path = Path(folder) / MANIFEST
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FeatureCacheError(_why_absent(Path(folder))) from error
    try:
        head = msgspec.json.decode(content, type=_Head)
        if head.format != FORMAT:
            raise FeatureCacheError(f"{path}: this is not the manifest of a feature cache")
        if head.version != VERSION:
            raise FeatureCacheError(
                f"{path}: the cache has version {head.version} of the format, and this balms_det "
                f"reads version {VERSION}: make the cache again with tools/cache_features.py"
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FeatureCacheError(
            f"{path}: the manifest is damaged ({error}). Delete it and call "
            "tools/cache_features.py again: it keeps the shards and writes a new one"
        ) from error
    if not manifest.shards:
        raise FeatureCacheError(f"{path}: the cache has no shard; make it again")
    return manifest


def _why_absent(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: there is no such folder; tools/cache_features.py makes a feature cache"
    if any(folder.glob("shard-*.safetensors")):
        return (
            f"{folder}: this feature cache is not finished: call tools/cache_features.py again as "
            "before, and it goes on where it stopped"
        )
    return f"{folder}: this is no feature cache, it has no {MANIFEST}"
