"""Masks of results that lie in memory, read and checked when they are asked for.

Only images, categories and scores decide which masks are evaluated, so the first images can be
matched while the masks of the others are still to be read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from balms_det.evaluation.known_ids import KnownIds
from balms_det.evaluation.mask_column import MaskColumn
from balms_det.evaluation.sound_columns import sound_masks

_CHUNK = 1 << 12


class MaskReader:
    """Reads the masks of N results from the first on, as far as it is asked to, in any thread.

    Args:
        entries: N results.
        image: (N,) int64, ranks of their images.
        known: ids of the dataset.
        read_again: reads all of them by ``result_reader``, which raises where there is a fault.
    """

    def __init__(
        self,
        entries: Sequence,
        image: np.ndarray,
        known: KnownIds,
        read_again: Callable[[], MaskColumn],
    ) -> None:
        self._entries, self._image, self._known = entries, image, known
        self._read_again = read_again
        self._counts: list = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def masks(self, which: np.ndarray) -> MaskColumn:
        """The masks at these indices, in their order.

        Raises:
            ResultsError: a mask up to the last of these has a fault.
        """
        self.read(int(which.max(initial=-1)) + 1)
        counts = self._counts
        chosen = [counts[n] for n in which.tolist()]
        return MaskColumn(chosen, self._image[which], self._known.size_lists)

    def read(self, end: int) -> None:
        """Read and check the masks before ``end``; the same error as of :meth:`masks`."""
        with self._lock:
            while (start := len(self._counts)) < end:
                chunk = slice(start, start + _CHUNK)
                part = sound_masks(self._entries[chunk], self._image[chunk], self._known)
                if part is None:
                    self._counts = self._read_again().counts
                else:
                    self._counts += part.counts


class HeldMasks(Sequence):
    """Some of the masks of a reader, in the shape of a ``MaskColumn``.

    Args:
        reader: of all masks.
        index: (N,) int64, places of these masks in the results.
    """

    def __init__(self, reader: MaskReader, index: np.ndarray) -> None:
        self._reader, self._index = reader, index

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, which):
        """An RLE, or a list of them for a slice."""
        if isinstance(which, slice):
            return self._reader.masks(self._index[which])[:]
        return self._reader.masks(self._index[[which]])[0]

    def __iter__(self) -> Iterator[dict]:
        return iter(self[:])

    def take(self, kept: np.ndarray) -> HeldMasks:
        """The masks at these indices, in their order."""
        return HeldMasks(self._reader, self._index[kept])

    def check_all(self) -> None:
        """Check the masks of the reader that nobody has asked for.

        Raises:
            ResultsError: one of them has a fault.
        """
        self._reader.read(len(self._reader))
