"""Opening a feature cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from safetensors import safe_open
from torch import Tensor

from balms_det.data.count_sources import dataset_class_names
from balms_det.data.fingerprint import file_sha256
from balms_det.engine.feature_cache.layout import EVAL, TRAIN, FeatureCacheError
from balms_det.engine.feature_cache.manifest import Manifest, ShardEntry, read_manifest
from balms_det.engine.feature_cache.settings import dataset_source, weights_sha256
from balms_det.engine.feature_cache.table import RoITable

AGAIN = "Delete it and call tools/cache_features.py again: it makes what is missing"


class FeatureCache:
    """A finished cache; make one with :meth:`open`.

    Attributes:
        folder: where it is.
        manifest: what it says of itself.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True) -> FeatureCache:
        """Open a cache and check it.

        Args:
            folder: of the cache.
            verify: compare the checksums of all shards, at the speed of the disk; else only that
                they are there, and their sizes.

        Raises:
            FeatureCacheError: it is no cache, unfinished, of another version, or damaged.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        for shard in manifest.shards:
            _check(folder / shard.name, shard, verify)
        return cls(folder, manifest)

    def stage(self, stage: int = 0) -> RoITable:
        """The RoIs of a stage, of a cache for training.

        Raises:
            FeatureCacheError: the cache is for evaluation.
            IndexError: it has fewer stages.
        """
        self.check_purpose(TRAIN)
        if not 0 <= stage < self.manifest.num_stages:
            raise IndexError(f"{self.folder}: no stage {stage}, it has {self.manifest.num_stages}")
        shards = self.manifest.shards
        paths = [self.folder / shard.name for shard in shards]
        rois = [shard.rois[stage] for shard in shards]
        return RoITable(paths, rois, self.manifest.num_classes, stage)

    def shards(self) -> Iterator[tuple[ShardEntry, dict[str, Tensor]]]:
        """Every shard with its columns by name, mapped."""
        for entry in self.manifest.shards:
            with safe_open(self.folder / entry.name, framework="pt") as shard:
                yield entry, {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118

    def check_purpose(self, purpose: str) -> None:
        """Raises FeatureCacheError if the cache is for something else."""
        if self.manifest.purpose != purpose:
            word = {TRAIN: "training", EVAL: "evaluation"}
            raise FeatureCacheError(
                f"{self.folder}: this cache is for {word[self.manifest.purpose]}, and one for "
                f"{word[purpose]} is needed (--purpose {purpose} of tools/cache_features.py)"
            )

    def check_matches(self, cfg: CfgNode) -> None:
        """Whether the cache is of the detector and, for training, of the data of a config.

        Args:
            cfg: its ``MODEL.WEIGHTS``, if set, must be the checkpoint that the cache was made with;
                its classes, those of ``DATASETS.TRAIN``, the cache's. A cache for training must be
                of ``DATASETS.TRAIN``, under whatever names.

        Raises:
            FeatureCacheError: it is of other weights, classes or data.
        """
        self.check_classes(cfg.MODEL.ROI_HEADS.NUM_CLASSES, _names(cfg))
        if cfg.MODEL.WEIGHTS and weights_sha256(cfg.MODEL.WEIGHTS) != self.manifest.weights_sha256:
            raise FeatureCacheError(
                f"{self.folder}: the cache is of another model than {cfg.MODEL.WEIGHTS}: name the "
                "checkpoint that it was made with, or make a cache of this one"
            )
        if self.manifest.purpose == TRAIN and cfg.DATASETS.TRAIN:
            self._check_data(cfg.DATASETS.TRAIN)

    def _check_data(self, names: Sequence[str]) -> None:
        own = self.manifest.datasets
        if [source.sha256 for source in own] != [dataset_source(name).sha256 for name in names]:
            raise FeatureCacheError(
                f"{self.folder}: the cache is of other data than DATASETS.TRAIN {tuple(names)}: of "
                f"{tuple(source.name for source in own)}, or their annotations have changed since"
            )

    def check_classes(self, num_classes: int, names: list[str] | None = None) -> None:
        """Whether the cache has these classes, in this order.

        Raises:
            FeatureCacheError: it has others.
        """
        own = self.manifest
        if num_classes != own.num_classes:
            raise FeatureCacheError(
                f"{self.folder}: the cache has {own.num_classes} classes, the model {num_classes}"
            )
        if names is None or own.class_names is None:
            return
        for c, pair in enumerate(zip(own.class_names, names)):
            if pair[0] != pair[1]:
                raise FeatureCacheError(
                    f"{self.folder}: the cache is of a dataset with other classes: class {c} is "
                    f"{pair[0]!r} there, and {pair[1]!r} here"
                )

    def check_same_model(self, other: FeatureCache) -> None:
        """Whether another cache, for instance that of the validation set, is of the same detector.

        Raises:
            FeatureCacheError: it is not.
        """
        if self.manifest.weights_sha256 != other.manifest.weights_sha256:
            raise FeatureCacheError(
                f"{self.folder} and {other.folder} are caches of different models"
            )
        names = other.manifest.class_names
        self.check_classes(other.manifest.num_classes, None if names is None else list(names))


def _names(cfg: CfgNode) -> list[str] | None:
    return dataset_class_names(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None


def _check(path: Path, shard: ShardEntry, verify: bool) -> None:
    if not path.is_file():
        raise FeatureCacheError(
            f"{path}: this shard is missing. Call tools/cache_features.py again: it makes what is "
            "missing"
        )
    size = path.stat().st_size
    if size != shard.bytes:
        raise FeatureCacheError(
            f"{path}: this shard has {size} bytes and should have {shard.bytes}. {AGAIN}"
        )
    if verify and file_sha256(path) != shard.sha256:
        raise FeatureCacheError(f"{path}: this shard was changed, its checksum differs. {AGAIN}")
