"""Samplers of RoIs: which rows of a cache make the next batch of classifier training.

Symbols: see :mod:`balms_det.engine.classifier.roi_pool`, and
    B      RoIs of a batch
    n_c    RoIs of class c in the cache
    rho_c  learned rate of class c (the Meta Sampler's)

A batch is a function of the seed and of its number (and, where rates are learned, of the rates), so
the state of a sampler is its position. Batches are drawn a block at a time, which costs the loop
over batches little.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor

from balms_det.data.randomness import derived_seed
from balms_det.engine.classifier.roi_pool import RoIPool

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
