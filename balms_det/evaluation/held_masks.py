"""Masks of results that lie in memory, checked when they are asked for.

Only images, categories and scores decide which masks are evaluated, so the first images can be
matched while the masks of the others are still to be checked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from balms_det.evaluation.known_ids import KnownIds
from balms_det.evaluation.mask_column import MaskColumn
from balms_det.evaluation.result_chunks import ResultsError
from balms_det.evaluation.sound_columns import are_sound_masks

_CHUNK = 1 << 11


class MaskReader:
    """Checks the masks of N results from the first on, as far as it is asked to, in any thread.

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
        self._checked = 0
        self._lock = threading.Lock()
        self._masks: MaskColumn | None = None  # of all, where they had to be read again
        self._error: ResultsError | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def masks(self, which: np.ndarray) -> list[dict]:
        """The masks at these indices, in their order.

        Raises:
            ResultsError: a mask up to the last of these has a fault.
        """
        self.check(int(which.max(initial=-1)) + 1)
        if self._masks is not None:
            return self._masks.take(which)[:]
        entries = self._entries
        return [entries[n]["segmentation"] for n in which.tolist()]

    def check(self, end: int) -> None:
        """Check the masks before ``end``; the same error as of :meth:`masks`."""
        with self._lock:
            while self._checked < end:
                if self._error is not None:
                    raise self._error
                chunk = slice(self._checked, self._checked + _CHUNK)
                if are_sound_masks(self._entries[chunk], self._image[chunk], self._known):
                    self._checked += _CHUNK
                else:
                    self._read_all_again()

    def _read_all_again(self) -> None:
        try:
            self._masks = self._read_again()
        except ResultsError as error:
            self._error = error
            raise
        self._checked = len(self)


class HeldMasks(Sequence):
    """Some of the masks of a reader, used as a ``MaskColumn``; the dicts are those of the results.

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
            return self._reader.masks(self._index[which])
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
        self._reader.check(len(self._reader))
