"""The RoIs of a cache as a training loop reads them: features by row, rows by image and class.

Symbols and shapes
    N, D  RoIs of a table of the cache, width of the feature that the classifier reads
    K     foreground classes; label K is background
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from balms_det.data.repeat_factors import CategoryIncidence
from balms_det.losses import ContextLoss

logger = logging.getLogger(__name__)

#: Features that take at most so many bytes are read into memory (of the device) as a whole.
MEMORY_LIMIT = 2 << 30


class RoIGroups:
    """The rows of every group, one group after the other.

    Args:
        group: (N,) integers, the group of each row; rows of a negative one are left out.
        num_groups: how many groups there are, empty ones included.
    """

    def __init__(self, group: np.ndarray, num_groups: int):
        self.rows = np.argsort(group, kind="stable")
        bounds = np.searchsorted(group[self.rows], np.arange(num_groups + 1))
        self.first, self.size = bounds[:-1], np.diff(bounds)

    def distinct(
        self, groups: np.ndarray, limit: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Up to ``limit[i]`` different rows of ``groups[i]``, drawn evenly.

        Args:
            groups, limit: (M,) integers. A group may be there more than once.

        Returns:
            (R,) rows and (R,) the i that each was drawn for, in increasing order.
        """
        size = self.size[groups]
        owner = np.repeat(np.arange(len(groups)), size)
        place = np.arange(len(owner)) - np.repeat(size.cumsum() - size, size)
        rows = self.rows[self.first[groups][owner] + place]
        # A float32 behind the point leaves the owner before it exact: it sorts within owners.
        order = np.argsort(owner + rng.random(len(owner), dtype=np.float32).astype(np.float64))
        kept = place < limit[owner]
        return rows[order][kept], owner[kept]

    def any_of(self, groups: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """A row of each of ``groups`` (M,), none of them empty, by (M,) draws from [0, 1)."""
        size = self.size[groups]
        place = np.minimum((uniform * size).astype(np.int64), size - 1)
        return self.rows[self.first[groups] + place]


class RoIPool:
    """One table of a cache (a stage of the detector), ready to train from.

    Args:
        table: a ``RoITable`` of the cache: ``gt_classes``, ``image``, ``objects``, ``gather``,
            ``all_classes``.
        num_classes: K.
        views: passes over the images that the table holds.
        background: background RoIs that were kept of an image in a pass, at most; -1 for all.
        device: where features are wanted.
        memory_limit: features of at most so many bytes are kept on the device, in the dtype in
            which they are stored; larger ones are gathered from disk, batch by batch.
    """

    def __init__(
        self,
        table: Any,
        num_classes: int,
        *,
        views: int = 1,
        background: int = -1,
        device: torch.device | str = "cpu",
        memory_limit: int = MEMORY_LIMIT,
    ):
        self.table, self.num_classes = table, num_classes
        self.views, self.background = views, background
        self.device = torch.device(device)
        self.gt_classes = torch.as_tensor(table.gt_classes)
        self._features = self._preload(memory_limit)

    def __len__(self) -> int:
        return len(self.gt_classes)

    def _preload(self, limit: int) -> Tensor | None:
        if len(self) == 0:
            raise ValueError("the cache has no RoIs to train from")
        one = self._gather(torch.zeros(1, dtype=torch.long))
        needed = one.numel() * one.element_size() * len(self)
        if needed > limit:
            logger.info("Features take %.1f GB: they are read from disk", needed / 1e9)
            return None
        whole = torch.empty(len(self), one.shape[1], dtype=one.dtype, device=self.device)
        for rows in torch.arange(len(self)).split(1 << 16):
            whole[rows[0] : rows[-1] + 1] = self._gather(rows)
        return whole

    def _gather(self, index: Tensor) -> Tensor:
        return torch.as_tensor(self.table.gather(index))

    def features(self, index: Tensor) -> Tensor:
        """(n, D) features of the rows ``index`` (n,), float32 (or float64, where stored so)."""
        if self._features is None:
            rows = self._to_device(self._gather(index))
        else:
            rows = self._features.index_select(0, self._to_device(index))
        return rows if rows.dtype == torch.float64 else rows.float()

    def labels(self, index: Tensor) -> Tensor:
        """(n,) labels of the rows ``index``, on the device."""
        return self._to_device(self.gt_classes[index])

    def context(self, loss: torch.nn.Module, index: Tensor) -> dict[str, Tensor]:
        """What ``loss`` reads of the RoIs beside their labels (``balms_det.losses.ROI_FIELDS``)."""
        if not isinstance(loss, ContextLoss):
            return {}
        read = {"object_ids": self._object_ids, "all_classes": self._all_classes}
        return {name: self._to_device(read[name](index)) for name in loss.reads}

    def _to_device(self, rows: Tensor) -> Tensor:
        # Without waiting for what an accelerator still has to do.
        return rows.to(self.device, non_blocking=True)

    def _object_ids(self, index: Tensor) -> Tensor:
        return torch.as_tensor(self.table.objects)[index].long()

    def _all_classes(self, index: Tensor) -> Tensor:
        return torch.as_tensor(self.table.all_classes(index))

    @cached_property
    def _image_of_row(self) -> np.ndarray:
        """(N,) images, numbered without gaps."""
        return np.unique(np.asarray(self.table.image), return_inverse=True)[1].reshape(-1)

    @cached_property
    def num_images(self) -> int:
        """How many images have RoIs."""
        return int(self._image_of_row.max()) + 1

    @cached_property
    def is_foreground(self) -> np.ndarray:
        """(N,) boolean."""
        return self.gt_classes.numpy() < self.num_classes

    @cached_property
    def foreground_by_image(self) -> RoIGroups:
        return RoIGroups(np.where(self.is_foreground, self._image_of_row, -1), self.num_images)

    @cached_property
    def background_by_image(self) -> RoIGroups:
        return RoIGroups(np.where(self.is_foreground, -1, self._image_of_row), self.num_images)

    @cached_property
    def by_class(self) -> RoIGroups:
        """K + 1 groups, background last."""
        return RoIGroups(self.gt_classes.numpy(), self.num_classes + 1)

    @cached_property
    def incidence(self) -> CategoryIncidence:
        """Which image contains which class, counted by objects that have RoIs."""
        objects = np.where(self.is_foreground, np.asarray(self.table.objects), -1)
        ids, first = np.unique(objects, return_index=True)
        first = first[ids >= 0]
        classes = self.gt_classes.numpy()[first]
        return CategoryIncidence.from_objects(self._image_of_row[first], classes, self.num_images)
