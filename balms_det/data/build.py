"""The training loader: dataset dicts, sampler, mapper and batching put together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    MetadataCatalog,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.utils import comm
from torch.utils.data import Dataset

from balms_det.annotations.class_identity import ClassList, check_same_order
from balms_det.data import meta_sampling  # noqa: F401  registers its sampler
from balms_det.data.class_stats import (
    SHIPPED,
    ClassStats,
    build_class_stats,
    dataset_source_name,
    sum_class_stats,
)
from balms_det.data.copy_paste import CopyPaste, InstancePool
from balms_det.data.data_checks import check_counts, check_image_files, check_masks
from balms_det.data.draws import DrawAwareDataset, has_global_draws
from balms_det.data.mapper import RepeatFactorDatasetMapper
from balms_det.data.resumable_loader import ResumableLoader, SeededMapDataset, landscape_images
from balms_det.data.samplers import SAMPLER_REGISTRY, build_sampler, check_annotated, check_sampler
from balms_det.utils.randomness import derived_seed

logger = logging.getLogger(__name__)


def build_train_loader(
    cfg: CfgNode, mapper: Callable | None = None, class_stats: ClassStats | None = None
):
    """Endless loader of training batches; each is a list of mapped dataset dicts.

    ``DATALOADER.SAMPLER_TRAIN`` names a sampler of ``SAMPLER_REGISTRY``, or one of Detectron2's
    own others, which Detectron2 then builds. Of the registry's samplers, those with
    ``global_draws`` (all of ours) get a :class:`ResumableLoader`, the others Detectron2's loader.
    The default mapper is :class:`RepeatFactorDatasetMapper`, with copy-paste if
    ``INPUT.COPY_PASTE.ENABLED``. The class statistics, by default ``build_class_stats(cfg)``, say
    which classes are rare.

    Raises:
        KeyError: an unknown sampler name.
        ValueError: a dataset without a single annotation; copy-paste settings that cannot work; a
            batch size that the ranks cannot share.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    check_sampler(cfg)
    dataset = load_train_dicts(cfg)
    if isinstance(dataset, Dataset):
        return build_detection_train_loader(cfg, dataset=dataset, mapper=mapper)
    records = DatasetFromList(dataset, copy=False)
    if class_stats is None:
        class_stats = build_class_stats(cfg)
        # Counts that ship are those of all of LVIS, of which a part may lie here under its name;
        # and keypoints leave images out.
        other = cfg.DATASETS.CLASS_COUNTS or set(cfg.DATASETS.TRAIN) & set(SHIPPED)
        if not other and not cfg.MODEL.KEYPOINT_ON:
            check_counts(called(cfg.DATASETS.TRAIN), dataset, class_stats)
    if mapper is None:
        mapper = build_mapper(cfg, dataset, class_stats, storage=records)
    if name not in SAMPLER_REGISTRY:
        return build_detection_train_loader(cfg, dataset=dataset, mapper=mapper)
    sampler = build_sampler(cfg, dataset, class_stats)
    if has_global_draws(sampler):
        mapped = SeededMapDataset(records, mapper, _seed(cfg))
        return _resumable_loader(cfg, dataset, mapped, sampler)
    return build_detection_train_loader(
        DrawAwareDataset(records, mapper),
        mapper=None,
        sampler=sampler,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def _resumable_loader(cfg: CfgNode, dataset_dicts, mapped: Dataset, sampler) -> ResumableLoader:
    grouping = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    return ResumableLoader(
        mapped,
        sampler,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        landscape=landscape_images(dataset_dicts) if grouping else None,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def _seed(cfg: CfgNode) -> int:
    # The ranks need one seed; without cfg.SEED it is random, and a resumed run has another.
    return cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()


def called(names: Sequence[str]) -> str:
    """What to call datasets in an error: their names, with their files."""
    files = {name: MetadataCatalog.get(name).get("json_file") for name in names}
    return ", ".join(f"{name} ({file})" if file else name for name, file in files.items())


def load_train_dicts(cfg: CfgNode):
    """Dataset dicts of ``DATASETS.TRAIN``, filtered as Detectron2's own builder does.

    Raises:
        FileNotFoundError: image files are missing.
        ValueError: there is no training dataset, no image has an annotation, or masks do not fit
            ``MODEL.MASK_ON`` and ``INPUT.MASK_FORMAT``.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name the datasets to train on.")
    dataset = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=False,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        if cfg.MODEL.KEYPOINT_ON
        else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    if isinstance(dataset, Dataset):
        return dataset
    # Checked before filtering, which on such a dataset fails with an assertion about nothing left.
    check_annotated(dataset)
    check_image_files(called(cfg.DATASETS.TRAIN), dataset)
    check_masks(cfg, called(cfg.DATASETS.TRAIN), dataset)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        dataset = filter_images_with_only_crowd_annotations(dataset)
    return dataset


def build_mapper(
    cfg: CfgNode,
    dataset_dicts: Sequence[dict],
    class_stats: ClassStats,
    *,
    storage: Dataset | None = None,
) -> RepeatFactorDatasetMapper:
    """The training mapper, with copy-paste out of these dataset dicts if the config turns it on.

    ``class_stats`` say which classes are scarce; ``storage`` is :class:`InstancePool`'s.
    """
    copy_paste = None
    if cfg.INPUT.COPY_PASTE.ENABLED:
        classes = _classes_to_paste(cfg, class_stats)
        pool = InstancePool(dataset_dicts, classes, storage)
        logger.info(f"Copy-paste draws from {len(pool)} instances")
        copy_paste = build_copy_paste(cfg, pool)
    return RepeatFactorDatasetMapper(cfg, is_train=True, copy_paste=copy_paste)


def _classes_to_paste(cfg: CfgNode, class_stats: ClassStats) -> list[int]:
    groups = cfg.INPUT.COPY_PASTE.GROUPS
    if not groups or not set(groups) <= {"r", "c", "f"}:
        raise ValueError(f'INPUT.COPY_PASTE.GROUPS must list some of "r", "c", "f", got {groups}.')
    return [c for c, group in enumerate(class_stats.frequency_groups()) if group in groups]


def build_copy_paste(cfg: CfgNode, pool: InstancePool) -> CopyPaste:
    """Copy-paste out of ``pool``, as ``INPUT.COPY_PASTE`` says."""
    node = cfg.INPUT.COPY_PASTE
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    return CopyPaste(
        pool,
        image_format=cfg.INPUT.FORMAT,
        prob=node.PROB,
        max_instances=node.MAX_INSTANCES,
        scale=tuple(node.SCALE),
        min_visible=node.MIN_VISIBLE,
        dataset_ids={c: raw for raw, c in contiguous.items()} if contiguous else None,
    )


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
    held_out = sum_class_stats(
        [ClassStats.from_dataset(name) for name in cfg.META.DATASETS],
        [dataset_source_name(name) for name in cfg.META.DATASETS],
    )
    own = ClassList("the training set", class_stats.num_classes, class_stats.names)
    what = f"META.DATASETS {', '.join(map(dataset_source_name, cfg.META.DATASETS))}"
    check_same_order(own, ClassList(what, held_out.num_classes, held_out.names))
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
