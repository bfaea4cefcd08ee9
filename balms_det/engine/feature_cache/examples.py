"""The images of a cache, each in each of its views, as the detector reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from torch.utils.data import Dataset

from balms_det.data.mapper import RepeatFactorDatasetMapper, StrictDatasetMapper
from balms_det.data.randomness import derived_seed, local_randomness
from balms_det.engine.feature_cache.layout import EVAL
from balms_det.engine.feature_cache.manifest import Settings


@dataclass(frozen=True)
class Span:
    """The images of one shard: ``start`` to ``stop - 1`` in one view."""

    number: int
    view: int
    start: int
    stop: int


def plan_shards(num_images: int, views: int, shard_images: int) -> list[Span]:
    """Every view cut into spans of ``shard_images`` images, the last shorter."""
    starts = [(view, i) for view in range(views) for i in range(0, num_images, shard_images)]
    return [
        Span(number, view, start, min(start + shard_images, num_images))
        for number, (view, start) in enumerate(starts)
    ]


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
