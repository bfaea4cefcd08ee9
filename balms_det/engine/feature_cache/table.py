"""The RoIs of a cache as one table, of which memory holds the labels and the disk the features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from balms_det.engine.feature_cache.layout import (
    BOXES,
    EXTRA_CLASSES,
    FEATURES,
    GT_CLASSES,
    IMAGE,
    IOUS,
    OBJECTS,
    column,
)


class RoITable:
    """All RoIs of one stage, numbered through the shards.

    Features and boxes are read from memory maps when they are asked for; labels are in memory,
    each column from its first use on.

    Args:
        paths: of the shards.
        rois: RoIs of each.
        num_classes: K.
        stage: of the box heads.
    """

    def __init__(self, paths: Sequence[Path], rois: Sequence[int], num_classes: int, stage: int):
        # A shard stays open as long as the table: its tensors are views of the mapped file.
        self._shards = [safe_open(path, framework="pt") for path in paths]
        self._ends = np.cumsum(rois)
        self.num_classes = num_classes
        self.stage = stage
        self._mapped: dict[str, list[Tensor]] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def gt_classes(self) -> Tensor:
        """(N,) int64 labels, background is K."""
        return self._in_memory(GT_CLASSES).long()

    @cached_property
    def image(self) -> Tensor:
        """(N,) int64 indices into the manifest's ``image_ids``."""
        return self._in_memory(IMAGE).long()

    @cached_property
    def ious(self) -> Tensor:
        """(N,) float32 IoU with the object that fits best."""
        return self._in_memory(IOUS)

    @cached_property
    def objects(self) -> Tensor:
        """(N,) int64: RoIs of one object in one view have the same number; background has -1."""
        return self._in_memory(OBJECTS)

    def gather(self, index: Tensor) -> Tensor:
        """Features (n, D), as they are stored, of the RoIs ``index``, (n,), in that order.

        Raises:
            IndexError: an index is not in [0, N).
        """
        return self._rows(FEATURES, index)

    def boxes(self, index: Tensor) -> Tensor:
        """(n, 4) boxes, x0 y0 x1 y1, in pixels of the network's input."""
        return self._rows(BOXES, index)

    def all_classes(self, index: Tensor) -> Tensor:
        """(n, K) boolean: every class that the object of a RoI carries, none for background."""
        labels = self.gt_classes[index]
        extra = self._rows_of_any_width(index)
        # Column K takes what is no class: background, and the padding.
        classes = torch.cat([labels[:, None], extra], dim=1).long()
        classes[classes < 0] = self.num_classes
        carried = torch.zeros(len(index), self.num_classes + 1, dtype=torch.bool)
        carried.scatter_(1, classes, True)
        return carried[:, :-1]

    def _in_memory(self, name: str) -> Tensor:
        return torch.cat([part.clone() for part in self._columns(name)])

    def _columns(self, name: str) -> list[Tensor]:
        """The column in every shard, mapped."""
        if name not in self._mapped:
            full = column(self.stage, name)
            self._mapped[name] = [shard.get_tensor(full) for shard in self._shards]
        return self._mapped[name]

    def _rows(self, name: str, index: Tensor) -> Tensor:
        columns = self._columns(name)
        ordered, order, pieces = self._by_shard(index)
        rows = torch.empty(len(index), *columns[0].shape[1:], dtype=columns[0].dtype)
        for shard, begin, end in pieces:
            torch.index_select(columns[shard], 0, ordered[begin:end], out=rows[begin:end])
        result = torch.empty_like(rows)
        result[order] = rows
        return result

    def _rows_of_any_width(self, index: Tensor) -> Tensor:
        """Extra classes, (n, M) with the largest M of all shards."""
        columns = self._columns(EXTRA_CLASSES)
        ordered, order, pieces = self._by_shard(index)
        width = max(part.shape[1] for part in columns)
        result = torch.full((len(index), width), -1, dtype=torch.int32)
        for shard, begin, end in pieces:
            part = columns[shard]
            result[order[begin:end], : part.shape[1]] = part[ordered[begin:end]]
        return result

    def _by_shard(self, index: Tensor) -> tuple[Tensor, Tensor, list[tuple[int, int, int]]]:
        """Rows within their shards, ascending by RoI, where each belongs in ``index``, and the
        pieces (shard, begin, end) of them."""
        if index.device.type != "cpu" or index.dtype != torch.int64 or index.ndim != 1:
            raise TypeError("RoIs are chosen by a vector of int64 on the CPU")
        ordered, order = index.sort()
        if len(index) and not 0 <= int(ordered[0]) <= int(ordered[-1]) < len(self):
            raise IndexError(
                f"RoIs are numbered from 0 to {len(self) - 1}, asked for "
                f"{int(ordered[0])} to {int(ordered[-1])}"
            )
        cuts = np.searchsorted(ordered.numpy(), self._ends).tolist()
        pieces = []
        begin = first = 0
        for shard, end in enumerate(cuts):
            if end > begin:
                ordered[begin:end] -= first
                pieces.append((shard, begin, end))
            begin, first = end, int(self._ends[shard])
        return ordered, order, pieces
