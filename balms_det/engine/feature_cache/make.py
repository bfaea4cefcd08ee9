"""Makes a feature cache, on one rank or several, from the beginning or where it stopped."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from balms_det.engine.feature_cache.disk import check_room, readable
from balms_det.engine.feature_cache.examples import Span, plan_shards
from balms_det.engine.feature_cache.layout import FeatureCacheError, shard_name
from balms_det.engine.feature_cache.lock import sole_writer
from balms_det.engine.feature_cache.manifest import Manifest, Settings, ShardEntry
from balms_det.engine.feature_cache.run import CacheRun
from balms_det.engine.feature_cache.settings import (
    CacheOptions,
    build_settings,
    class_counts,
    load_records,
    with_dataset,
)
from balms_det.engine.feature_cache.shards import describe_shard, feature_dim

logger = logging.getLogger(__name__)


def cache_features(
    cfg: CfgNode,
    folder: str | Path,
    options: CacheOptions,
    *,
    records: Sequence[dict] | None = None,
    model: nn.Module | None = None,
) -> None:
    """Run the detector of ``cfg`` over a dataset and keep what its classifier reads.

    All ranks call it. Shards that the folder has already are kept, so that a call after one that
    was stopped goes on; the result does not depend on how often that happened, nor on the ranks.

    Args:
        cfg: of the trained detector, ``MODEL.WEIGHTS`` included.
        folder: of the cache.
        options: what to cache.
        records: dataset dicts of the images to cache; None for those of the options.
        model: the detector, weights loaded; None to build it.

    Raises:
        FeatureCacheError: no room on the disk, or the folder has a cache of something else.
        ValueError, KeyError, FileNotFoundError: no weights, or no such dataset.
    """
    cfg, folder = with_dataset(cfg, options), Path(folder)
    records = load_records(cfg, options) if records is None else records
    if not records:
        raise ValueError("there is no image to cache")
    settings = build_settings(cfg, options, records)
    with contextlib.ExitStack() as stack:
        _together(_lock, stack, folder)
        shards = _make_shards(cfg, settings, folder, records, model)
        if comm.is_main_process():
            _manifest(cfg, settings, folder, records, shards).write(folder)
            size = readable(sum(shard.bytes for shard in shards))
            logger.info("%s: %d shards, %s", folder, len(shards), size)
        comm.synchronize()


def _make_shards(
    cfg: CfgNode,
    settings: Settings,
    folder: Path,
    records: Sequence[dict],
    model: nn.Module | None,
) -> tuple[ShardEntry, ...]:
    """All shards, those that are there already and the others."""
    plan = plan_shards(len(records), settings.views, settings.shard_images)
    missing = _missing(folder, plan)
    entries = _together(_describe, folder, settings, [s for s in plan if s not in missing])
    if missing:
        run = CacheRun(cfg, settings, folder, records, model)
        _together(_check_room, run, missing)
        entries += _together(_write, run, missing)
    return tuple(sorted(entries, key=lambda entry: entry.name))


def _missing(folder: Path, plan: Sequence[Span]) -> list[Span]:
    """The shards that are not there; all ranks get the same answer."""
    missing = [span for span in plan if not (folder / shard_name(span.number)).exists()]
    missing = comm.all_gather(missing)[0]
    if len(missing) < len(plan):
        logger.info("%s has %d of %d shards", folder, len(plan) - len(missing), len(plan))
    return missing


def _together(work: Callable[..., list], *arguments: Any) -> list:
    """What the ranks return, joined; if one fails, all do, and none waits for it for ever."""
    try:
        outcome: list | str = work(*arguments)
    except FeatureCacheError as error:
        outcome = str(error)
    outcomes = comm.all_gather(outcome)
    for rank_outcome in outcomes:
        if isinstance(rank_outcome, str):
            raise FeatureCacheError(rank_outcome)
    return [entry for own in outcomes for entry in own]


def _lock(stack: contextlib.ExitStack, folder: Path) -> list:
    if comm.is_main_process():
        stack.enter_context(sole_writer(folder))
    return []


def _own(spans: Sequence[Span]) -> Sequence[Span]:
    return spans[comm.get_rank() :: comm.get_world_size()]


def _describe(folder: Path, settings: Settings, present: Sequence[Span]) -> list[ShardEntry]:
    paths = [folder / shard_name(span.number) for span in _own(present)]
    return [describe_shard(path, settings.digest()) for path in paths]


def _check_room(run: CacheRun, missing: Sequence[Span]) -> list:
    if comm.is_main_process():
        examples = sum(span.stop - span.start for span in missing)
        needed = int(run.bytes_an_example() * examples)
        logger.info("About %s for %d examples", readable(needed), examples)
        check_room(run.folder, needed)
    return []


def _write(run: CacheRun, missing: Sequence[Span]) -> list[ShardEntry]:
    entries = []
    for entry in run.write(_own(missing)):
        logger.info("%s: %d RoIs, %s", entry.name, entry.rois[0], readable(entry.bytes))
        entries.append(entry)
    return entries


def _manifest(
    cfg: CfgNode,
    settings: Settings,
    folder: Path,
    records: Sequence[dict],
    shards: tuple[ShardEntry, ...],
) -> Manifest:
    return Manifest(
        **vars(settings),
        config=cfg.dump(),
        class_counts=class_counts(cfg),
        image_ids=tuple(record["image_id"] for record in records),
        feature_dim=feature_dim(folder / shards[0].name),
        shards=shards,
    )
