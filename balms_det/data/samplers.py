"""Training samplers, by the name that ``DATALOADER.SAMPLER_TRAIN`` gives them.

An entry of :data:`SAMPLER_REGISTRY` is called as ``entry(cfg, incidence)`` and returns an endless
sampler of indices into the dataset dicts that ``incidence`` was read from. With ``global_draws``
(:mod:`balms_det.data.draws`) it gets a loader that resumes exactly.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import samplers as d2_samplers
from detectron2.utils.registry import Registry
from torch.utils.data import Sampler

from balms_det.data.class_stats import ClassStats
from balms_det.data.draws import RepeatAwareSampler
from balms_det.data.repeat_factors import (
    CategoryIncidence,
    class_repeat_factors,
    instance_aware_frequency,
)
from balms_det.data.stats_report import factor_table

logger = logging.getLogger(__name__)

SAMPLER_REGISTRY = Registry("SAMPLER")
SAMPLER_REGISTRY.__doc__ = "Training samplers, called as ``entry(cfg, incidence)``."

# Samplers that only Detectron2's own loader builder knows how to build, and the config key that
# each of them reads, which Detectron2's defaults do not have.
DETECTRON2_SAMPLERS = {
    "RandomSubsetTrainingSampler": "DATALOADER.RANDOM_SUBSET_RATIO",
    "WeightedCategoryTrainingSampler": "DATASETS.TRAIN_REPEAT_FACTOR",
    "WeightedTrainingSampler": "DATASETS.TRAIN_REPEAT_FACTOR",
}


def _seed(cfg: CfgNode) -> int | None:
    # A negative cfg.SEED means "not seeded" in Detectron2: then the ranks agree on a random one.
    return cfg.SEED if cfg.SEED >= 0 else None


@SAMPLER_REGISTRY.register()
class TrainingSampler(d2_samplers.TrainingSampler):
    """Detectron2's sampler: every image once an epoch."""

    @configurable
    def __init__(self, size: int, *, shuffle: bool = True, seed: int | None = None):
        super().__init__(size, shuffle=shuffle, seed=seed)

    @classmethod
    def from_config(cls, cfg: CfgNode, incidence: CategoryIncidence) -> dict:
        return {"size": incidence.num_images, "seed": _seed(cfg)}

    def global_draws(self, start: int = 0) -> Iterator[int]:
        """The draws of all ranks, from number ``start`` on."""
        return itertools.islice(self._infinite_indices(), start, None)


@SAMPLER_REGISTRY.register()
class RepeatFactorTrainingSampler(RepeatAwareSampler):
    """RFS: an image's factor is the largest ``max(1, sqrt(t / f_img))`` of its classes.

    Equal to Detectron2's sampler of that name, index for index. Images without annotations get
    factor 1. A subclass says what its class factors are. ``repeat_factors`` is (N,) float32.
    """

    @configurable
    def __init__(
        self,
        incidence: CategoryIncidence,
        *,
        repeat_thresh: float = 0.001,
        repeat_sqrt: bool = True,
        shuffle: bool = True,
        seed: int | None = None,
    ):
        self.repeat_thresh = repeat_thresh
        self.repeat_sqrt = repeat_sqrt
        per_image = self.image_factors(incidence)
        self.repeat_factors = torch.as_tensor(per_image, dtype=torch.float32)
        super().__init__(self.epoch_factors(), shuffle=shuffle, seed=seed)

    @classmethod
    def from_config(cls, cfg: CfgNode, incidence: CategoryIncidence) -> dict:
        return {
            "incidence": incidence,
            "repeat_thresh": cfg.DATALOADER.REPEAT_THRESHOLD,
            "repeat_sqrt": cfg.DATALOADER.get("REPEAT_SQRT", True),
            "seed": _seed(cfg),
        }

    def category_factors(self, incidence: CategoryIncidence) -> np.ndarray:
        """(C,) factor of every class."""
        return class_repeat_factors(incidence.image_frequency, self.repeat_thresh, self.repeat_sqrt)

    def image_factors(self, incidence: CategoryIncidence) -> np.ndarray:
        """(N,) factor of every image."""
        return incidence.max_over_categories(self.category_factors(incidence), empty=1.0)

    def epoch_factors(self) -> torch.Tensor:
        """(N,) expected draws of every image in what the sampler takes as one epoch."""
        return self.repeat_factors


@SAMPLER_REGISTRY.register()
class InstanceAwareRepeatFactorTrainingSampler(RepeatFactorTrainingSampler):
    """IRFS (arXiv 2305.08069): RFS with ``sqrt(f_img * f_inst)`` in the place of ``f_img``."""

    def category_factors(self, incidence: CategoryIncidence) -> np.ndarray:
        frequency = instance_aware_frequency(
            incidence.image_frequency, incidence.instance_frequency
        )
        return class_repeat_factors(frequency, self.repeat_thresh, self.repeat_sqrt)


@SAMPLER_REGISTRY.register()
class ClassBalancedTrainingSampler(RepeatFactorTrainingSampler):
    """CBS (BALMS, NeurIPS 2020): an image's factor is the largest ``1 / f_img`` of its classes.

    Images without annotations get the smallest class factor. The factors add up to as much as
    C * N draws, far too long a list for LVIS; an epoch longer than ``MAX_EPOCH_DRAWS`` is therefore
    cut into shorter ones in which every factor is scaled down alike. How often one image is drawn
    relative to another does not change.
    """

    MAX_EPOCH_DRAWS = 500_000

    def category_factors(self, incidence: CategoryIncidence) -> np.ndarray:
        frequency = incidence.image_frequency
        return np.divide(1.0, frequency, out=np.ones_like(frequency), where=frequency > 0)

    def image_factors(self, incidence: CategoryIncidence) -> np.ndarray:
        factors = self.category_factors(incidence)
        present = factors[incidence.image_count > 0]
        return incidence.max_over_categories(factors, empty=present.min(initial=np.inf))

    def epoch_factors(self) -> torch.Tensor:
        longest = max(self.MAX_EPOCH_DRAWS, len(self.repeat_factors))
        total = self.repeat_factors.double().sum().item()
        return self.repeat_factors * min(1.0, longest / total)


def check_sampler(cfg: CfgNode) -> None:
    """Raises KeyError unless ``DATALOADER.SAMPLER_TRAIN`` is ours, or Detectron2's and the config
    has the key that it reads."""
    name = cfg.DATALOADER.SAMPLER_TRAIN
    known = sorted([*(key for key, _ in SAMPLER_REGISTRY), *DETECTRON2_SAMPLERS])
    if name not in known:
        raise KeyError(f"DATALOADER.SAMPLER_TRAIN is {name!r}; the known ones: {', '.join(known)}.")
    node, _, key = DETECTRON2_SAMPLERS.get(name, "DATALOADER.SAMPLER_TRAIN").partition(".")
    if key not in cfg[node]:
        raise KeyError(
            f"DATALOADER.SAMPLER_TRAIN is {name}, which reads {node}.{key}, and Detectron2 has no "
            "such key by default. Add it to the config in Python, before files are merged into it."
        )


def check_annotated(dataset_dicts: Sequence[dict]) -> None:
    """Raises ValueError when no image has an annotation to train on (crowds are none)."""
    annotations = (a for record in dataset_dicts for a in record.get("annotations") or ())
    if all(annotation.get("iscrowd", 0) for annotation in annotations):
        raise ValueError(
            f"None of the {len(dataset_dicts)} training images has an annotation. Check the "
            "annotation files and the image ids in them of the datasets in DATASETS.TRAIN."
        )


def build_sampler(
    cfg: CfgNode, dataset_dicts: Sequence[dict], class_stats: ClassStats | None = None
) -> Sampler:
    """The sampler of ours that ``DATALOADER.SAMPLER_TRAIN`` names, over these dataset dicts.

    The factors come from the dicts alone; ``class_stats``, which default to the dicts' own, say
    which class is rare, common or frequent in the table that is logged.

    Raises:
        KeyError: it is no entry of ``SAMPLER_REGISTRY``.
        ValueError: there is no annotation in the whole dataset, or a class that is not in
            ``class_stats``.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    check_sampler(cfg)
    check_annotated(dataset_dicts)
    incidence = CategoryIncidence.from_dicts(dataset_dicts)
    sampler = SAMPLER_REGISTRY.get(name)(cfg, incidence)
    if hasattr(sampler, "epoch_factors"):
        if class_stats is None:
            counts = incidence.image_count, incidence.instance_count, incidence.num_images
            class_stats = ClassStats(*counts)
        draws = sampler.epoch_factors()
        groups = class_stats.frequency_groups()
        table = factor_table(incidence, groups, sampler.repeat_factors.numpy(), draws.numpy())
        logger.info(f"{name}:\n{table}")
        if isinstance(sampler, RepeatFactorTrainingSampler) and sampler.repeat_factors.max() <= 1:
            logger.warning(
                f"{name} repeats nothing: every factor is 1. "
                f"DATALOADER.REPEAT_THRESHOLD is {cfg.DATALOADER.REPEAT_THRESHOLD}."
            )
    return sampler
