"""The image level of the Meta Sampler: images drawn by class rates that are learned meanwhile.

Symbols: N images, K classes; ``f_c`` the share of images that contain class c; ``rho_c`` the rate
of class c, which the meta learner sets (BALMS, NeurIPS 2020, section 3.2, draws instances by it).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from torch.utils.data import Sampler

from balms_det.data.draws import DrawIndex
from balms_det.data.repeat_factors import CategoryIncidence
from balms_det.data.samplers import SAMPLER_REGISTRY
from balms_det.utils.randomness import derived_seed

# Uniform numbers are made so many at a time.
BLOCK = 4096
# The class of an image that has none.
NO_CLASS = -1


@SAMPLER_REGISTRY.register()
class MetaTrainingSampler(Sampler):
    """Draws an image with probability proportional to the largest ``rho_c / f_c`` of its classes.

    All ``rho_c`` start at 1/2, which are the ratios of ``ClassBalancedTrainingSampler``, the prior.
    An image without annotations gets the smallest ``rho_c / f_c`` of any class. Images are drawn
    with replacement, one by one: :meth:`set_rates` acts from the next draw on. A draw carries
    ``meta_class``, the class whose ratio won (-1 for an image without any), and ``meta_rate``, the
    ``rho_c`` behind the ratio.

    In Detectron2's own loader it runs too, but each worker there has a copy, which no update
    reaches.

    Args:
        incidence: which of the N images contains which class.
        seed: not negative, the same on all ranks; None for a random one.
    """

    @configurable
    def __init__(self, incidence: CategoryIncidence, *, seed: int | None = None):
        self._seed = comm.shared_random_seed() if seed is None else seed
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()
        self._incidence = incidence
        self.set_rates(torch.full((len(incidence.image_count),), 0.5))

    @classmethod
    def from_config(cls, cfg: CfgNode, incidence: CategoryIncidence) -> dict:
        return {"incidence": incidence, "seed": cfg.SEED if cfg.SEED >= 0 else None}

    def set_rates(self, rates: torch.Tensor) -> None:
        """Draw by these rates from now on.

        Args:
            rates: (K,) ``rho`` in the host's memory, not negative, the same on all ranks. A class
                of rate 0 no longer asks for its images.

        Raises:
            ValueError: a rate is negative or not finite, there are fewer rates than classes, or
                every class that has images has rate 0.
        """
        values = np.array(rates.detach(), dtype=np.float64)
        self._check(values)
        incidence = self._incidence
        frequency = incidence.image_frequency
        occurs = np.flatnonzero(frequency)
        ratio = np.zeros(len(values))
        ratio[occurs] = values[occurs] / frequency[occurs]
        least = occurs[ratio[occurs].argmin()]
        self._rates = values
        self._rate_behind = np.append(values, values[least])  # NO_CLASS, the last: the smallest's
        self._weights = incidence.max_over_categories(ratio, empty=ratio[least])
        self._winner = self._winning_classes(ratio)
        self._cumulated = np.cumsum(self._weights)
        self._last = int(np.flatnonzero(self._weights)[-1])

    def _check(self, rates: np.ndarray) -> None:
        count = self._incidence.image_count
        if rates.ndim != 1 or len(rates) < len(count):
            raise ValueError(
                f"MetaTrainingSampler has images of {len(count)} classes, but got rates of shape "
                f"{rates.shape}."
            )
        wrong = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
        if len(wrong):
            raise ValueError(
                f"MetaTrainingSampler: the rate of class {wrong[0]} is {rates[wrong[0]]} (and "
                f"{len(wrong) - 1} more are wrong); rates are finite and not negative."
            )
        if not rates[: len(count)][count > 0].any():
            raise ValueError("MetaTrainingSampler: every class that has images has rate 0.")

    def _winning_classes(self, ratio: np.ndarray) -> np.ndarray:
        """(N,) the class with the largest ratio in each image, the lowest one of equals."""
        image, category = self._incidence.pair_image, self._incidence.pair_category
        wins = np.flatnonzero(ratio[category] == self._weights[image])[::-1]
        winner = np.full(self._incidence.num_images, NO_CLASS)
        winner[image[wins]] = category[wins]  # of several, numpy keeps the last written
        return winner

    @property
    def repeat_factors(self) -> torch.Tensor:
        """(N,) what the images' probabilities of being drawn are proportional to."""
        return torch.from_numpy(self._weights)

    def epoch_factors(self) -> torch.Tensor:
        """(N,) expected draws of every image among N draws."""
        return self.repeat_factors * (len(self._weights) / self._cumulated[-1])

    def __iter__(self) -> Iterator[DrawIndex]:
        return itertools.islice(self.global_draws(), self._rank, None, self._world_size)

    def global_draws(self, start: int = 0) -> Iterator[DrawIndex]:
        """The draws of all ranks, from number ``start`` on, by the rates at the time of each."""
        for block in itertools.count(start // BLOCK):
            generator = torch.Generator().manual_seed(derived_seed("draws", self._seed, block))
            uniforms = torch.rand(BLOCK, generator=generator, dtype=torch.float64)
            for uniform in uniforms[start % BLOCK :].tolist():
                yield self._draw(uniform)
            start = 0

    def _draw(self, uniform: float) -> DrawIndex:
        cumulated = self._cumulated
        index = np.searchsorted(cumulated, uniform * cumulated[-1], side="right")
        index = min(int(index), self._last)  # the product may be rounded up to the whole sum
        winner = int(self._winner[index])
        return DrawIndex(index, meta_class=winner, meta_rate=float(self._rate_behind[winner]))

    def state_dict(self) -> dict:
        """What the draws after a given number of them follow from: the seed and the rates."""
        return {"seed": self._seed, "rates": torch.from_numpy(self._rates)}

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError as :meth:`set_rates` does."""
        self._seed = state["seed"]
        self.set_rates(state["rates"])
