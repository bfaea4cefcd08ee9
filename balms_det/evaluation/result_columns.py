"""Results in columns, and the faults that were found in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balms_det.evaluation.known_ids import KnownIds
from balms_det.evaluation.mask_column import MaskColumn


@dataclass
class Problem:
    """One kind of fault.

    Attributes:
        text: the fault, after "entry N".
        first: index of the first entry that has it.
        example: that entry's value.
        count: entries that have it.
        dropped: whether a lenient reading leaves such entries out.
    """

    text: str
    first: int
    example: str
    count: int = 0
    dropped: bool = True

    @staticmethod
    def add(problems: dict, text: str, indices: np.ndarray, example: str, dropped=True) -> None:
        """Count a fault of the entries ``indices`` (ascending, not empty) in ``problems``."""
        problem = problems.setdefault(text, Problem(text, int(indices[0]), example, 0, dropped))
        problem.count += len(indices)

    def describe(self, name: str, verdict: bool = False) -> str:
        """One sentence, with what a lenient reading did about it if ``verdict``."""
        others = f" ({self.count:,} entries in all)" if self.count > 1 else ""
        end = (": left out." if self.dropped else ": kept.") if verdict else "."
        return f"{name}, entry {self.first}: it {self.text}: {self.example}{others}{end}"


@dataclass(frozen=True, eq=False)
class Columns:
    """N entries.

    Attributes:
        index: (N,) int64, place in the results.
        image: (N,) int64, rank of the image in the dataset.
        category: (N,) int64, rank of the category.
        score: (N,) float64.
        box: (N, 4) float64, x, y, width, height; None where boxes are not read.
        masks: of N entries; None where masks are not read.
        ids: N ids of the entries, or None.
    """

    index: np.ndarray
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    box: np.ndarray | None
    masks: MaskColumn | None
    ids: list | None = None

    def __len__(self) -> int:
        return len(self.score)

    def take(self, kept: np.ndarray) -> Columns:
        """The entries at these ascending indices."""
        if len(kept) == len(self):
            return self
        return Columns(*(_take(getattr(self, f.name), kept) for f in dataclasses.fields(self)))


class ColumnsBuilder:
    """Columns out of chunks, in buffers that grow: no number is held twice.

    Args:
        known: ids of the dataset.
        keys: "bbox" and/or "segmentation", what is read.
    """

    _TYPES = {"index": np.int64, "image": np.int64, "category": np.int64, "score": np.float64}

    def __init__(self, known: KnownIds, keys: Sequence[str]) -> None:
        types = {**self._TYPES, "box": np.float64} if "bbox" in keys else self._TYPES
        self._buffers = {name: (bytearray(), dtype) for name, dtype in types.items()}
        self._counts: list | None = [] if "segmentation" in keys else None
        self._sizes = known.size_lists
        self._ids: list | None = []

    def add(self, chunk: Columns) -> None:
        for name, (buffer, _) in self._buffers.items():
            buffer += getattr(chunk, name).tobytes()
        if self._counts is not None:
            self._counts += chunk.masks.counts
        if chunk.ids is None:  # ids count where all entries have one
            self._ids = None
        elif self._ids is not None:
            self._ids += chunk.ids

    def build(self) -> Columns:
        arrays = {n: np.frombuffer(buffer, dtype) for n, (buffer, dtype) in self._buffers.items()}
        box = arrays.pop("box").reshape(-1, 4) if "box" in arrays else None
        masks = None
        if self._counts is not None:
            masks = MaskColumn(self._counts, arrays["image"], self._sizes)
        return Columns(**arrays, box=box, masks=masks, ids=self._ids)


def _take(column: Any, kept: np.ndarray) -> Any:
    if isinstance(column, list):
        return [column[n] for n in kept.tolist()]
    if isinstance(column, MaskColumn):
        return column.take(kept)
    return None if column is None else column[kept]
