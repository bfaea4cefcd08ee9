"""Samplers that draw cached RoIs by class, whatever image they are of.

Symbols: see :mod:`balms_det.engine.classifier.samplers`.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from balms_det.engine.classifier.detector_sampler import detector_share
from balms_det.engine.classifier.roi_pool import RoIPool
from balms_det.engine.classifier.samplers import ROI_SAMPLER_REGISTRY, RoISampler


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
