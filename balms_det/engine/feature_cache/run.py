"""One rank's work on a cache: the detector over its shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.modeling import build_model
from torch import nn
from torch.utils.data import DataLoader

from balms_det.data.randomness import derived_seed
from balms_det.engine.feature_cache.collect import Collected
from balms_det.engine.feature_cache.examples import ExampleDataset, Span, build_mapper
from balms_det.engine.feature_cache.layout import EVAL
from balms_det.engine.feature_cache.manifest import Settings, ShardEntry
from balms_det.engine.feature_cache.record import TrainingRecorder
from balms_det.engine.feature_cache.regions import RegionRecorder
from balms_det.engine.feature_cache.shards import write_shard
from balms_det.engine.trainer import load_weights

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
