"""Masks of many detections in little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


class MaskColumn(Sequence):
    """N compressed RLEs, ``{"size": [height, width], "counts"}``, that are put together on demand.

    Only the counts are held: a mask has the size of its image, and a dict and a list for each take
    more memory than they do.

    Args:
        counts: N strings or bytes.
        image: (N,) int64, ranks of images.
        sizes: [height, width] of every image by its rank.
    """

    def __init__(self, counts: list, image: np.ndarray, sizes: list[list[int]]) -> None:
        self.counts, self._image, self._sizes = counts, image, sizes

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, which):
        """An RLE, or a list of them for a slice."""
        if not isinstance(which, slice):
            size = self._sizes[self._image[which]]
            return {"size": list(size), "counts": self.counts[which]}
        rows = zip(self._image[which].tolist(), self.counts[which])
        return [{"size": self._sizes[image], "counts": counts} for image, counts in rows]

    def __iter__(self) -> Iterator[dict]:
        return iter(self[:])

    def pixels(self) -> np.ndarray:
        """(N,) int64: height x width."""
        sizes = np.array(self._sizes, np.int64).reshape(-1, 2)
        return (sizes[:, 0] * sizes[:, 1])[self._image]

    def take(self, kept: np.ndarray) -> MaskColumn:
        """The masks at these indices, in their order."""
        counts = [self.counts[n] for n in kept.tolist()]
        return MaskColumn(counts, self._image[kept], self._sizes)
