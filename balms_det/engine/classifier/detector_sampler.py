"""Batches of cached RoIs as the detector makes them.

Symbols: see :mod:`balms_det.engine.classifier.samplers`; M images.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from detectron2.config import CfgNode
from torch import Tensor

from balms_det.data.samplers import SAMPLER_REGISTRY, check_sampler
from balms_det.engine.classifier.roi_pool import RoIPool
from balms_det.engine.classifier.samplers import ROI_SAMPLER_REGISTRY, RoISampler


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
