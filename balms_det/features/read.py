"""Opening a feature cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from safetensors import safe_open
from torch import Tensor

from balms_det.annotations.class_identity import ClassList, ClassListError, check_same_order
from balms_det.engine.identity import config_classes
from balms_det.features.manifest import (
    BOXES,
    EVAL,
    EXTRA_CLASSES,
    FEATURES,
    GT_CLASSES,
    IMAGE,
    IOUS,
    OBJECTS,
    TRAIN,
    FeatureCacheError,
    Manifest,
    ShardEntry,
    column,
    read_manifest,
)
from balms_det.features.options import dataset_source, weights_sha256
from balms_det.utils.file_cache import file_sha256

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
        wanted = config_classes(cfg)
        self.check_classes(cfg.MODEL.ROI_HEADS.NUM_CLASSES, wanted.names, wanted.source)
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

    def check_classes(
        self, num_classes: int, names: Sequence[str] | None = None, source: str = "the model"
    ) -> None:
        """Whether the cache has these classes, in this order; ``source`` is whose they are.

        Raises:
            FeatureCacheError: it has others.
        """
        wanted = ClassList(source, num_classes, None if names is None else tuple(names))
        own = ClassList(
            f"the cache {self.folder}", self.manifest.num_classes, self.manifest.class_names
        )
        try:
            check_same_order(wanted, own)
        except ClassListError as error:
            raise FeatureCacheError(str(error)) from error

    def check_same_model(self, other: FeatureCache) -> None:
        """Whether another cache, for instance that of the validation set, is of the same detector.

        Raises:
            FeatureCacheError: it is not.
        """
        if self.manifest.weights_sha256 != other.manifest.weights_sha256:
            raise FeatureCacheError(
                f"{self.folder} and {other.folder} are caches of different models"
            )
        own = other.manifest
        self.check_classes(own.num_classes, own.class_names, f"the cache {other.folder}")


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


class RoITable:
    """All RoIs of one stage, numbered through the shards.

    Features and boxes are read from memory maps when they are asked for; labels are in memory,
    each column from its first use on.

    Args:
        paths: of the shards.
        rois: RoIs of each.
        num_classes: K.
        stage: of the box heads.
    """

    def __init__(self, paths: Sequence[Path], rois: Sequence[int], num_classes: int, stage: int):
        # A shard stays open as long as the table: its tensors are views of the mapped file.
        self._shards = [safe_open(path, framework="pt") for path in paths]
        self._ends = np.cumsum(rois)
        self.num_classes = num_classes
        self.stage = stage
        self._mapped: dict[str, list[Tensor]] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def gt_classes(self) -> Tensor:
        """(N,) int64 labels, background is K."""
        return self._in_memory(GT_CLASSES).long()

    @cached_property
    def image(self) -> Tensor:
        """(N,) int64 indices into the manifest's ``image_ids``."""
        return self._in_memory(IMAGE).long()

    @cached_property
    def ious(self) -> Tensor:
        """(N,) float32 IoU with the object that fits best."""
        return self._in_memory(IOUS)

    @cached_property
    def objects(self) -> Tensor:
        """(N,) int64: RoIs of one object in one view have the same number; background has -1."""
        return self._in_memory(OBJECTS)

    def gather(self, index: Tensor) -> Tensor:
        """Features (n, D), as they are stored, of the RoIs ``index``, (n,), in that order.

        Raises:
            IndexError: an index is not in [0, N).
        """
        return self._rows(FEATURES, index)

    def boxes(self, index: Tensor) -> Tensor:
        """(n, 4) boxes, x0 y0 x1 y1, in pixels of the network's input."""
        return self._rows(BOXES, index)

    def all_classes(self, index: Tensor) -> Tensor:
        """(n, K) boolean: every class that the object of a RoI carries, none for background."""
        labels = self.gt_classes[index]
        extra = self._rows_of_any_width(index)
        # Column K takes what is no class: background, and the padding.
        classes = torch.cat([labels[:, None], extra], dim=1).long()
        classes[classes < 0] = self.num_classes
        carried = torch.zeros(len(index), self.num_classes + 1, dtype=torch.bool)
        carried.scatter_(1, classes, True)
        return carried[:, :-1]

    def _in_memory(self, name: str) -> Tensor:
        return torch.cat([part.clone() for part in self._columns(name)])

    def _columns(self, name: str) -> list[Tensor]:
        """The column in every shard, mapped."""
        if name not in self._mapped:
            full = column(self.stage, name)
            self._mapped[name] = [shard.get_tensor(full) for shard in self._shards]
        return self._mapped[name]

    def _rows(self, name: str, index: Tensor) -> Tensor:
        columns = self._columns(name)
        ordered, order, pieces = self._by_shard(index)
        rows = torch.empty(len(index), *columns[0].shape[1:], dtype=columns[0].dtype)
        for shard, begin, end in pieces:
            torch.index_select(columns[shard], 0, ordered[begin:end], out=rows[begin:end])
        result = torch.empty_like(rows)
        result[order] = rows
        return result

    def _rows_of_any_width(self, index: Tensor) -> Tensor:
        """Extra classes, (n, M) with the largest M of all shards."""
        columns = self._columns(EXTRA_CLASSES)
        ordered, order, pieces = self._by_shard(index)
        width = max(part.shape[1] for part in columns)
        result = torch.full((len(index), width), -1, dtype=torch.int32)
        for shard, begin, end in pieces:
            part = columns[shard]
            result[order[begin:end], : part.shape[1]] = part[ordered[begin:end]]
        return result

    def _by_shard(self, index: Tensor) -> tuple[Tensor, Tensor, list[tuple[int, int, int]]]:
        """Rows within their shards, ascending by RoI, where each belongs in ``index``, and the
        pieces (shard, begin, end) of them."""
        if index.device.type != "cpu" or index.dtype != torch.int64 or index.ndim != 1:
            raise TypeError("RoIs are chosen by a vector of int64 on the CPU")
        ordered, order = index.sort()
        if len(index) and not 0 <= int(ordered[0]) <= int(ordered[-1]) < len(self):
            raise IndexError(
                f"RoIs are numbered from 0 to {len(self) - 1}, asked for "
                f"{int(ordered[0])} to {int(ordered[-1])}"
            )
        cuts = np.searchsorted(ordered.numpy(), self._ends).tolist()
        pieces = []
        begin = first = 0
        for shard, end in enumerate(cuts):
            if end > begin:
                ordered[begin:end] -= first
                pieces.append((shard, begin, end))
            begin, first = end, int(self._ends[shard])
        return ordered, order, pieces
