"""Makes a feature cache, on one rank or several, from the beginning or where it stopped."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader, Dataset

from balms_det.data.mapper import RepeatFactorDatasetMapper, StrictDatasetMapper
from balms_det.engine.checkpoint import load_weights
from balms_det.features.manifest import (
    EVAL,
    FeatureCacheError,
    Manifest,
    Settings,
    ShardEntry,
    shard_name,
)
from balms_det.features.options import (
    CacheOptions,
    build_settings,
    class_counts,
    load_records,
    with_dataset,
)
from balms_det.features.record import TrainingRecorder
from balms_det.features.regions import RegionRecorder
from balms_det.features.shards import (
    Collected,
    Span,
    describe_shard,
    feature_dim,
    plan_shards,
    write_shard,
)
from balms_det.utils.randomness import derived_seed, local_randomness

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


# Images that the need of disk is estimated from.
PROBED = 8


class CacheRun:
    """Records examples and writes them.

    Args:
        cfg: of the detector.
        settings: of the cache.
        folder: of the cache.
        records: dataset dicts.
        model: the detector; None to build it.
    """

    def __init__(
        self,
        cfg: CfgNode,
        settings: Settings,
        folder: Path,
        records: Sequence[dict],
        model: nn.Module | None = None,
    ):
        self.settings, self.folder = settings, folder
        self.workers = cfg.DATALOADER.NUM_WORKERS
        records = DatasetFromList(list(records), copy=False)  # which workers share, not copy
        self.dataset = ExampleDataset(records, build_mapper(cfg, settings), settings.seed)
        self.model = _build(cfg) if model is None else model
        self.amp = cfg.SOLVER.AMP.ENABLED

    def bytes_an_example(self) -> float:
        """The room that an example takes, on average, from a few of them."""
        images = np.linspace(0, len(self.dataset) - 1, PROBED).round().astype(int)
        images = np.unique(images).tolist()
        collected = Collected(self.settings)
        for view, image, recorded in self._recorded([(0, image) for image in images]):
            collected.add(view, image, recorded)
        return sum(c.numel() * c.element_size() for c in collected.columns().values()) / len(images)

    def write(self, spans: Sequence[Span]) -> Iterator[ShardEntry]:
        """Write shards one after the other; each is whole when it is given out."""
        pairs = [(span.view, image) for span in spans for image in range(span.start, span.stop)]
        recorded = self._recorded(pairs)
        for span in spans:
            collected = Collected(self.settings)
            for _ in range(span.start, span.stop):
                collected.add(*next(recorded))
            columns, sampled = collected.columns(), collected.sampled()
            yield write_shard(self.folder, span, self.settings.digest(), columns, sampled)

    def _recorded(self, pairs: list[tuple[int, int]]) -> Iterator[tuple]:
        workers = self.workers
        loader = DataLoader(
            self.dataset, batch_size=None, sampler=pairs, num_workers=workers, collate_fn=_as_is
        )
        with self._recorder() as record:
            for view, image, example in loader:
                seed = derived_seed("background", self.settings.seed, view, image)
                yield view, image, record(example, seed)

    def _recorder(self) -> TrainingRecorder | RegionRecorder:
        if self.settings.purpose == EVAL:
            return RegionRecorder(self.model)
        return TrainingRecorder(self.model, self.settings.background, self.amp)


def _build(cfg: CfgNode) -> nn.Module:
    model = build_model(cfg)
    load_weights(cfg, model)
    return model


def _as_is(example):
    return example


NAME = ".lock"


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the folder, and clear away what killed writers left half-written.

    The lock goes with the process, however it ends.

    Raises:
        FeatureCacheError: somebody else holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / NAME, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FeatureCacheError(
                f"{folder}: another process is making this cache: wait for it, or stop it"
            ) from error
        for part in folder.glob(".tmp*"):  # ours, and those that safetensors writes to
            part.unlink()
        yield


# Images differ: so much more than estimated must be free, and so many bytes in any case.
MARGIN = 0.1
SPARE = 64 * 2**20


def check_room(folder: Path, needed: int) -> None:
    """Refuse to begin what would fill the disk.

    Args:
        folder: where it is to be written.
        needed: estimated bytes.

    Raises:
        FeatureCacheError: there is less room than that and a margin.
    """
    free = shutil.disk_usage(folder).free
    wanted = int(needed * (1 + MARGIN)) + SPARE
    if wanted > free:
        raise FeatureCacheError(
            f"{folder}: the cache needs about {readable(needed)} ({readable(wanted)} with a "
            f"margin), and {readable(free)} are free. Keep fewer background RoIs, views or images, "
            "take float16, or choose another disk"
        )


def readable(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


class ExampleDataset(Dataset):
    """Mapped examples by (view, image): the same pair always gives the same example.

    Args:
        records: dataset dicts, or a ``DatasetFromList`` of them.
        mapper: maps a dict that it may change.
        seed: of all random decisions.
    """

    def __init__(self, records: Sequence[dict], mapper: DatasetMapper, seed: int):
        self.records = records
        self.mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, pair: tuple[int, int]) -> tuple[int, int, dict]:
        view, image = pair
        with local_randomness(derived_seed("view", self.seed, view, image)):
            return view, image, self.mapper(dict(self.records[image]))


def build_mapper(cfg: CfgNode, settings: Settings) -> DatasetMapper:
    """From a dataset dict to what the detector reads for this purpose."""
    if settings.purpose == EVAL:
        return StrictDatasetMapper(cfg, is_train=False)
    mapper = RepeatFactorDatasetMapper(cfg, is_train=True)
    if not settings.augmented:
        mapper.augmentations = T.AugmentationList(build_augmentation(cfg, is_train=False))
    return mapper
