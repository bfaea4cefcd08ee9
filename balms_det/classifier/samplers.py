"""Samplers of RoIs: which rows of a cache make the next batch of classifier training.

Symbols: see :mod:`balms_det.classifier.pool`, and
    B      RoIs of a batch
    n_c    RoIs of class c in the cache
    rho_c  learned rate of class c (the Meta Sampler's)

A batch is a function of the seed and of its number (and, where rates are learned, of the rates), so
the state of a sampler is its position. Batches are drawn a block at a time, which costs the loop
over batches little.

Symbols: see :mod:`balms_det.classifier.samplers`.

Symbols: see :mod:`balms_det.classifier.samplers`; M images.

"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor

from balms_det.classifier.pool import RoIPool
from balms_det.data import meta_sampling  # noqa: F401  registers its sampler
from balms_det.data.samplers import SAMPLER_REGISTRY, check_sampler
from balms_det.utils.randomness import derived_seed

ROI_SAMPLER_REGISTRY = Registry("ROI_SAMPLER")
ROI_SAMPLER_REGISTRY.__doc__ = (
    "Samplers of cached RoIs, called as ``entry.from_config(cfg, pool)``."
)


class RoISampler(ABC):
    """An endless iterator over batches, (n,) rows of the pool's table each.

    Args:
        pool: what is drawn from.
        seed: not negative.
        block: batches that are drawn at once; rates that are set act from the next block on.
    """

    def __init__(self, pool: RoIPool, *, seed: int, block: int = 20):
        self.pool, self.seed, self.block = pool, seed, block
        self.position = 0
        self._drawn: tuple[int, list[Tensor]] = (-1, [])

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode, pool: RoIPool) -> RoISampler:
        """The sampler that a config describes."""

    @abstractmethod
    def draw_block(self, number: int, rng: np.random.Generator) -> list[np.ndarray]:
        """The batches of block ``number``, by the random numbers of ``rng`` alone."""

    def __iter__(self) -> RoISampler:
        return self

    def __next__(self) -> Tensor:
        number, place = divmod(self.position, self.block)
        if self._drawn[0] != number:
            rng = np.random.default_rng(derived_seed("cached rois", self.seed, number))
            self._drawn = number, [torch.from_numpy(b) for b in self.draw_block(number, rng)]
        self.position += 1
        return self._drawn[1][place]

    @property
    def takes_rates(self) -> bool:
        """Whether :meth:`set_rates` has an effect."""
        return False

    def set_rates(self, rates: Tensor) -> None:
        """Draw by these class rates, (K,), from the next block on; nothing where none are taken."""
        return

    def state_dict(self) -> dict:
        return {"position": self.position, "seed": self.seed}

    def load_state_dict(self, state: dict) -> None:
        self.position, self.seed = state["position"], state["seed"]
        self._drawn = (-1, [])


def build_roi_sampler(cfg: CfgNode, pool: RoIPool, name: str = "") -> RoISampler:
    """The sampler of this name, of ``CLASSIFIER.SAMPLER`` or, where that is empty, the detector's.

    Raises:
        ValueError: an unknown name, or a sampler that cannot draw from the pool.
    """
    name = name or cfg.CLASSIFIER.SAMPLER or "DetectorSampler"
    if name not in ROI_SAMPLER_REGISTRY:
        known = ", ".join(sorted(key for key, _ in ROI_SAMPLER_REGISTRY))
        raise ValueError(f"Unknown sampler {name!r} (CLASSIFIER.SAMPLER). Registered: {known}")
    return ROI_SAMPLER_REGISTRY.get(name).from_config(cfg, pool)


class ClassSampler(RoISampler):
    """Draws a class by its rate, then one of its RoIs evenly, with replacement.

    Background is drawn evenly, and the shares of foreground and background are those of the
    detector's batches, so that the prior of background stays.

    Args:
        pool, seed, block: see :class:`RoISampler`.
        batch_size: B.
        foreground: share of foreground in every batch.

    Raises:
        ValueError: a share outside [0, 1], or no RoI of a kind that is to be drawn.
    """

    def __init__(
        self, pool: RoIPool, *, batch_size: int, foreground: float, seed: int, block: int = 20
    ):
        super().__init__(pool, seed=seed, block=block)
        if not 0 <= foreground <= 1:
            raise ValueError(f"the share of foreground must lie in [0, 1], got {foreground}")
        self.batch_size, self.num_foreground = batch_size, round(batch_size * foreground)
        self.count = pool.by_class.size[:-1]
        for name, wanted, there in (
            ("foreground", self.num_foreground, self.count.sum()),
            ("background", batch_size - self.num_foreground, pool.by_class.size[-1]),
        ):
            if wanted and not there:
                raise ValueError(f"a batch has {wanted} {name} RoIs, and the cache has none")

    @classmethod
    def from_config(cls, cfg: CfgNode, pool: RoIPool) -> ClassSampler:
        heads = cfg.MODEL.ROI_HEADS
        return cls(
            pool,
            batch_size=cfg.SOLVER.IMS_PER_BATCH * heads.BATCH_SIZE_PER_IMAGE,
            foreground=cfg.CLASSIFIER.FOREGROUND
            or detector_share(pool, heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION),
            seed=max(cfg.SEED, 0),
            block=cfg.META.SAMPLER_PERIOD,
        )

    @abstractmethod
    def class_rates(self) -> np.ndarray:
        """(K,) what the probability of a class is proportional to; those without RoIs get 0."""

    def draw_block(self, number: int, rng: np.random.Generator) -> list[np.ndarray]:
        background = np.full((self.block, self.batch_size - self.num_foreground), len(self.count))
        groups = np.concatenate([self._classes(rng), background], axis=1)
        rows = self.pool.by_class.any_of(groups.ravel(), rng.random(groups.size))
        return list(rows.reshape(groups.shape))

    def _classes(self, rng: np.random.Generator) -> np.ndarray:
        uniform = rng.random((self.block, self.num_foreground))
        cumulated = np.where(self.count > 0, self.class_rates(), 0.0).cumsum()
        drawn = np.searchsorted(cumulated, uniform * cumulated[-1], side="right")
        # The product may be rounded up to the whole sum, behind the last class that has a rate.
        return np.minimum(drawn, np.searchsorted(cumulated, cumulated[-1]))


@ROI_SAMPLER_REGISTRY.register()
class InstanceBalancedSampler(ClassSampler):
    """Every RoI alike: classes by n_c (Kang et al., ICLR 2020, equation 1 with q = 1)."""

    def class_rates(self) -> np.ndarray:
        return self.count.astype(np.float64)


@ROI_SAMPLER_REGISTRY.register()
class SquareRootSampler(ClassSampler):
    """Classes by the square root of n_c (Kang et al., ICLR 2020, equation 1 with q = 1/2)."""

    def class_rates(self) -> np.ndarray:
        return np.sqrt(self.count)


@ROI_SAMPLER_REGISTRY.register()
class ClassBalancedSampler(ClassSampler):
    """Every class alike (Kang et al., ICLR 2020, equation 1 with q = 0)."""

    def class_rates(self) -> np.ndarray:
        return (self.count > 0).astype(np.float64)


@ROI_SAMPLER_REGISTRY.register()
class MetaRateSampler(ClassSampler):
    """Classes by rates that a meta learner sets (BALMS, NeurIPS 2020, section 3.2)."""

    def __init__(self, pool: RoIPool, **kwargs):
        super().__init__(pool, **kwargs)
        self._rates = np.full(len(self.count), 0.5)

    @property
    def takes_rates(self) -> bool:
        return True

    def set_rates(self, rates: Tensor) -> None:
        """Raises ValueError for rates that are not (K,), finite and positive somewhere."""
        values = np.array(rates.detach().cpu(), dtype=np.float64)
        usable = values.shape == self._rates.shape and np.isfinite(values).all()
        if not (usable and values.min() >= 0 and values[self.count > 0].sum() > 0):
            raise ValueError(f"class rates must be {self._rates.shape}, finite and not all 0")
        self._rates = values

    def class_rates(self) -> np.ndarray:
        return self._rates

    def state_dict(self) -> dict:
        return {**super().state_dict(), "rates": torch.from_numpy(self._rates)}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.set_rates(state["rates"])


@ROI_SAMPLER_REGISTRY.register()
class DetectorSampler(RoISampler):
    """Batches as the detector makes them: images by ``DATALOADER.SAMPLER_TRAIN``, and of each image
    as many foreground and background RoIs as Detectron2's sampler takes.

    With ``TrainingSampler``, which draws images evenly, it is natural sampling.

    Args:
        pool, seed, block: see :class:`RoISampler`.
        images: a sampler of :mod:`balms_det.data.samplers` over the images of the pool.
        images_per_batch: how many images.
        rois_per_image: ``MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE``.
        foreground: at most this share of an image's RoIs is foreground.
    """

    def __init__(
        self,
        pool: RoIPool,
        images,
        *,
        images_per_batch: int,
        rois_per_image: int,
        foreground: float,
        seed: int,
        block: int = 20,
    ):
        super().__init__(pool, seed=seed, block=block)
        self.images, self.images_per_batch = images, images_per_batch
        self.rois_per_image = rois_per_image
        self.most_foreground = int(rois_per_image * foreground)
        self._stream, self._next_block = None, -1

    @classmethod
    def from_config(cls, cfg: CfgNode, pool: RoIPool) -> DetectorSampler:
        name = cfg.DATALOADER.SAMPLER_TRAIN
        check_sampler(cfg)
        if name not in SAMPLER_REGISTRY:
            raise ValueError(f"{name} cannot draw from a cache: choose one of balms_det's samplers")
        return cls(
            pool,
            SAMPLER_REGISTRY.get(name)(cfg, pool.incidence),
            images_per_batch=cfg.SOLVER.IMS_PER_BATCH,
            rois_per_image=cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE,
            foreground=cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION,
            seed=max(cfg.SEED, 0),
            block=cfg.META.SAMPLER_PERIOD,
        )

    def draw_block(self, number: int, rng: np.random.Generator) -> list[np.ndarray]:
        count = self.block * self.images_per_batch
        if number != self._next_block:
            self._stream = self.images.global_draws(number * count)
        self._next_block = number + 1
        images = np.fromiter(map(int, itertools.islice(self._stream, count)), np.int64, count)
        taken = quotas(self.pool, images, self.rois_per_image, self.most_foreground)
        nowhere = np.full(int(taken.elsewhere.sum()), self.pool.num_classes)
        parts = [
            self.pool.foreground_by_image.distinct(images, taken.foreground, rng),
            self.pool.background_by_image.distinct(images, taken.background, rng),
            (
                self.pool.by_class.any_of(nowhere, rng.random(len(nowhere))),
                np.repeat(np.arange(count), taken.elsewhere),
            ),
        ]
        rows, owner = (np.concatenate(pair) for pair in zip(*parts))
        batch = owner // self.images_per_batch
        bounds = np.bincount(batch, minlength=self.block).cumsum()[:-1]
        return np.split(rows[np.argsort(batch, kind="stable")], bounds)

    @property
    def takes_rates(self) -> bool:
        return hasattr(self.images, "set_rates")

    def set_rates(self, rates: Tensor) -> None:
        if self.takes_rates:
            self.images.set_rates(rates)

    def state_dict(self) -> dict:
        state = super().state_dict()
        if self.takes_rates:
            state["images"] = self.images.state_dict()
        return state

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self._next_block = -1
        if self.takes_rates:
            self.images.load_state_dict(state["images"])


class Quotas(NamedTuple):
    """How many RoIs the detector takes of images, (M,) each."""

    foreground: np.ndarray
    background: np.ndarray
    #: Background that the cache did not keep; that of other images stands for it.
    elsewhere: np.ndarray


def quotas(pool: RoIPool, images: np.ndarray, rois_per_image: int, most_foreground: int) -> Quotas:
    """What the detector's batches have of these images, (M,)."""
    # Of one pass over the image, as the detector sees it; the RoIs are of any.
    foreground = -(-pool.foreground_by_image.size[images] // pool.views)
    foreground = np.minimum(foreground, most_foreground)
    wanted = rois_per_image - foreground
    there = pool.background_by_image.size[images]
    background = np.minimum(-(-there // pool.views), wanted)
    # An image with fewer than the cache keeps has no more.
    cut = (there >= pool.background * pool.views) if pool.background >= 0 else np.zeros_like(there)
    return Quotas(foreground, background, np.where(cut, wanted - background, 0))


def detector_share(pool: RoIPool, rois_per_image: int, foreground: float) -> float:
    """The share of foreground in the detector's batches over all images of the pool."""
    images = np.arange(pool.num_images)
    taken = quotas(pool, images, rois_per_image, int(rois_per_image * foreground))
    return float(taken.foreground.sum() / max(sum(kind.sum() for kind in taken), 1))
