"""The meta set: the class-balanced batches on which meta learning judges a training step."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from detectron2.config import CfgNode

from balms_det.data.build import build_train_loader
from balms_det.data.class_stats import ClassStats, build_class_stats, sum_class_stats
from balms_det.data.randomness import derived_seed
from balms_det.data.samplers import SAMPLER_REGISTRY
from balms_det.data.stats_checks import check_same_classes

logger = logging.getLogger(__name__)

# So many names of classes are listed in a message.
LISTED = 5


def build_meta_loader(
    cfg: CfgNode, mapper: Callable | None = None, class_stats: ClassStats | None = None
):
    """Endless loader of meta batches, resumable as the training loader is.

    It draws from ``META.DATASETS``, or without any from ``DATASETS.TRAIN``, by ``META.SAMPLER``, in
    batches of ``META.IMS_PER_BATCH`` images over all ranks, by a seed of its own. The rest is as in
    :func:`build_train_loader`. ``class_stats`` are those of the training set.

    Raises:
        KeyError: ``META.SAMPLER`` is not registered.
        ValueError: the held-out datasets have other classes than the training set; and what
            ``build_train_loader`` raises.
    """
    if cfg.META.SAMPLER not in SAMPLER_REGISTRY:
        known = ", ".join(sorted(name for name, _ in SAMPLER_REGISTRY))
        raise KeyError(f"META.SAMPLER is {cfg.META.SAMPLER!r}; the known ones: {known}.")
    class_stats = class_stats or build_class_stats(cfg)
    if cfg.META.DATASETS:
        check_held_out(cfg, class_stats)
    return build_train_loader(meta_set_config(cfg), mapper, class_stats)


def meta_set_config(cfg: CfgNode) -> CfgNode:
    """A copy of the config whose training loader is that of the meta set."""
    meta = cfg.clone()
    meta.defrost()
    meta.DATASETS.TRAIN = tuple(cfg.META.DATASETS) or cfg.DATASETS.TRAIN
    meta.DATALOADER.SAMPLER_TRAIN = cfg.META.SAMPLER
    meta.SOLVER.IMS_PER_BATCH = cfg.META.IMS_PER_BATCH or cfg.SOLVER.IMS_PER_BATCH
    if cfg.SEED >= 0:
        meta.SEED = derived_seed("meta set", cfg.SEED)
    meta.freeze()
    return meta


def check_held_out(cfg: CfgNode, class_stats: ClassStats) -> None:
    """Compare the classes of ``META.DATASETS`` with those of the training set.

    Training classes that never occur in the meta set are legal, but what is learned for them comes
    from their false positives alone: a warning names some of them.

    Raises:
        ValueError: other classes, or another order of them; pre-computed proposals, which
            ``DATASETS.PROPOSAL_FILES_TRAIN`` has for the training set only.
    """
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError("META.DATASETS does not go with MODEL.LOAD_PROPOSALS: leave it empty.")
    held_out = sum_class_stats([ClassStats.from_dataset(name) for name in cfg.META.DATASETS])
    try:
        check_same_classes(class_stats, held_out)
    except ValueError as error:
        raise ValueError(f"META.DATASETS {tuple(cfg.META.DATASETS)}: {error}") from error
    absent = np.flatnonzero((class_stats.image_count > 0) & (held_out.image_count == 0))
    if len(absent):
        names = class_stats.names or list(map(str, range(class_stats.num_classes)))
        listed = ", ".join(names[c] for c in absent[:LISTED])
        more = ", ..." if len(absent) > LISTED else ""
        logger.warning(
            f"META.DATASETS {tuple(cfg.META.DATASETS)}: {len(absent)} of the training set's "
            f"classes have no image there ({listed}{more}). What is learned for them comes from "
            "false positives alone. Add images of them, or leave META.DATASETS empty, which draws "
            "the meta batches from the training set."
        )
