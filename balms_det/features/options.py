"""From a config to what is cached."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts

from balms_det.annotations.class_identity import ClassListError, check_same_order
from balms_det.data.build import load_train_dicts
from balms_det.data.class_stats import build_class_stats, dataset_classes
from balms_det.engine.identity import config_classes
from balms_det.engine.weights_files import local_weights
from balms_det.features.manifest import (
    DTYPES,
    EVAL,
    TRAIN,
    ClassCounts,
    FeatureCacheError,
    Settings,
    Source,
)
from balms_det.utils.file_cache import file_sha256
from balms_det.utils.local import local_path

# A shard is in memory until it is written; an image of LVIS has a thousand RoIs for evaluation.
SHARD_IMAGES = {TRAIN: 500, EVAL: 100}


@dataclass(frozen=True)
class CacheOptions:
    """What to cache.

    Attributes:
        purpose: "train" or "eval".
        dataset: registered name; empty for ``DATASETS.TRAIN``, or the first of ``DATASETS.TEST``.
        num_images: the first so many of its images; 0 for all.
        views: passes with the training augmentation; 0 for one pass without, as in testing.
        background: background RoIs kept of an image in a pass, -1 for all.
        dtype: of features, "float16" or "float32".
        shard_images: images of a shard; 0 for 500, or 100 in a cache for evaluation.

    Raises:
        ValueError: one of them is out of range.
    """

    purpose: str = TRAIN
    dataset: str = ""
    num_images: int = 0
    views: int = 0
    background: int = 64
    dtype: str = "float16"
    shard_images: int = 0

    def __post_init__(self) -> None:
        if self.purpose not in (TRAIN, EVAL):
            raise ValueError(f"a cache is for {TRAIN!r} or {EVAL!r}, not for {self.purpose!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"features are cached as {' or '.join(DTYPES)}, not {self.dtype!r}")
        if self.views and self.purpose == EVAL:
            raise ValueError("a cache for evaluation has no augmented views")
        least = {"num_images": 0, "views": 0, "background": -1, "shard_images": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be at least {value}, got {getattr(self, name)}")


def with_dataset(cfg: CfgNode, options: CacheOptions) -> CfgNode:
    """The config with the one dataset, or the training datasets, that are cached."""
    if options.purpose == TRAIN:
        names = (options.dataset,) if options.dataset else tuple(cfg.DATASETS.TRAIN)
        key = "TRAIN"
    else:
        names, key = (options.dataset,) if options.dataset else tuple(cfg.DATASETS.TEST[:1]), "TEST"
    if not names:
        raise ValueError(f"DATASETS.{key} is empty: name a dataset")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS[key] = names
    cfg.freeze()
    return cfg


def load_records(cfg: CfgNode, options: CacheOptions) -> list[dict]:
    """Dataset dicts of the images to cache; ``cfg`` is of :func:`with_dataset`."""
    if options.purpose == TRAIN:
        records = load_train_dicts(cfg)
    else:
        files = cfg.DATASETS.PROPOSAL_FILES_TEST[:1] if cfg.MODEL.LOAD_PROPOSALS else None
        records = get_detection_dataset_dicts(
            cfg.DATASETS.TEST, filter_empty=False, proposal_files=files, check_consistency=False
        )
    return list(records)[: options.num_images or None]


def build_settings(cfg: CfgNode, options: CacheOptions, records: Sequence[dict]) -> Settings:
    """The settings of a cache of these dataset dicts; ``cfg`` is of :func:`with_dataset`.

    Raises:
        ValueError: ``MODEL.WEIGHTS`` is empty, or a dataset has other classes than the model.
        FileNotFoundError: there are no such weights.
    """
    names = cfg.DATASETS.TRAIN if options.purpose == TRAIN else cfg.DATASETS.TEST
    return Settings(
        purpose=options.purpose,
        weights_sha256=weights_sha256(cfg.MODEL.WEIGHTS),
        model_sha256=model_sha256(cfg),
        datasets=tuple(dataset_source(name) for name in names),
        num_images=len(records),
        images_sha256=_sha256([record["image_id"] for record in records]),
        num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        class_names=_class_names(cfg, names),
        views=max(options.views, 1),
        augmented=options.views > 0,
        background=options.background if options.purpose == TRAIN else -1,
        seed=max(cfg.SEED, 0),
        dtype=options.dtype,
        shard_images=options.shard_images or SHARD_IMAGES[options.purpose],
    )


def weights_sha256(path: str) -> str:
    """SHA-256 of a checkpoint."""
    if not path:
        raise ValueError("MODEL.WEIGHTS is empty: name the checkpoint of the trained detector")
    return file_sha256(Path(local_weights(path)))


def model_sha256(cfg: CfgNode) -> str:
    """SHA-256 of what the features depend on, beside weights and data."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = cfg.MODEL.DEVICE = ""
    part = {"MODEL": cfg.MODEL, "INPUT": cfg.INPUT, "AMP": cfg.SOLVER.AMP}
    return hashlib.sha256(CfgNode(part).dump().encode()).hexdigest()


def dataset_source(name: str) -> Source:
    """A dataset and the SHA-256 of its annotation file, or, without one, of its dicts."""
    path = MetadataCatalog.get(name).get("json_file") if name in DatasetCatalog else None
    if path:
        return Source(name=name, sha256=file_sha256(Path(local_path(path))))
    return Source(name=name, sha256=_sha256(DatasetCatalog.get(name)))


def _sha256(values: list) -> str:
    return hashlib.sha256(msgspec.json.encode(values, enc_hook=str)).hexdigest()


def class_counts(cfg: CfgNode) -> ClassCounts:
    """The counts of the model's training set."""
    stats = build_class_stats(cfg)
    return ClassCounts(
        image_count=tuple(stats.image_count.tolist()),
        instance_count=tuple(stats.instance_count.tolist()),
        num_images=stats.num_images,
        frequency=stats.frequency,
    )


def _class_names(cfg: CfgNode, datasets: tuple[str, ...]) -> tuple[str, ...] | None:
    wanted = config_classes(cfg)
    for name in datasets:
        try:
            check_same_order(wanted, dataset_classes(name))
        except ClassListError as error:
            raise FeatureCacheError(str(error)) from error
    return wanted.names if wanted.names is not None else dataset_classes(datasets[-1]).names
