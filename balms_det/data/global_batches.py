"""Batches of all ranks together, formed from a sampler's draws before any image is read.

Symbols: N images; a *draw* is a :class:`DrawIndex` with its position in the stream of all ranks;
``B`` the batch size over all ranks.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from balms_det.data.draws import DrawIndex


class GlobalBatches(Iterator):
    """Endless lists of B draws, each of one orientation if there are orientations.

    With one rank and no loader workers these are the batches of Detectron2's own loader.

    Args:
        sampler: has ``global_draws``, see :mod:`balms_det.data.draws`.
        batch_size: ``B``.
        landscape: (N,) bool, from :func:`landscape_images`; None batches draws as they come.
    """

    def __init__(self, sampler, batch_size: int, landscape: np.ndarray | None = None):
        self._sampler = sampler
        self._batch_size = batch_size
        self._landscape = landscape
        self._restart(0, ())

    def _restart(self, num_draws: int, first: Iterable[DrawIndex]) -> None:
        self._num_draws = num_draws
        self._stream = self._sampler.global_draws(num_draws)
        self._first = deque(first)
        self._buckets: tuple[list, list] = ([], [])

    def __next__(self) -> list[DrawIndex]:
        while True:
            draw = self._next_draw()
            bucket = self._buckets[self._landscape is not None and bool(self._landscape[draw])]
            bucket.append(draw)
            if len(bucket) == self._batch_size:
                batch = bucket[:]
                bucket.clear()
                return batch

    def _next_draw(self) -> DrawIndex:
        if self._first:
            return self._first.popleft()
        draw = next(self._stream)
        self._num_draws += 1
        return DrawIndex(draw, **getattr(draw, "carried", {})).at(self._num_draws - 1)

    def state_dict(self, batches_to_repeat: Sequence[Sequence[DrawIndex]] = ()) -> dict:
        """Numbers, strings, lists and dicts alone; the same on every rank.

        Args:
            batches_to_repeat: the last batches, which will come again after a resume.

        Batches need no place in the state: the draws of all that were not finished, in order, form
        the same ones again (or others, of another size, when B has changed meanwhile).
        """
        unfinished = itertools.chain(*batches_to_repeat, *self._buckets, self._first)
        waiting = sorted(unfinished, key=_position)
        state = {
            "num_draws": self._num_draws,
            "waiting": [[draw.position, int(draw), dict(draw.carried)] for draw in waiting],
        }
        if hasattr(self._sampler, "state_dict"):
            state["sampler"] = self._sampler.state_dict()
        return state

    def load_state_dict(self, state: dict) -> None:
        """Go on where ``state_dict`` was taken."""
        if "sampler" in state:
            self._sampler.load_state_dict(state["sampler"])
        waiting = (DrawIndex(i, **carried).at(p) for p, i, carried in state["waiting"])
        self._restart(state["num_draws"], waiting)


def _position(draw: DrawIndex) -> int:
    return draw.position


def landscape_images(dataset_dicts: Sequence[dict]) -> np.ndarray:
    """(N,) bool: wider than high, the two groups that Detectron2 batches apart.

    Raises:
        ValueError: a dict without ``width`` and ``height``.
    """
    for record in dataset_dicts:
        if "width" not in record or "height" not in record:
            raise ValueError(
                f"The dataset dict of {record.get('file_name')!r} has no width and height, which "
                "DATALOADER.ASPECT_RATIO_GROUPING needs: add them, or switch it off."
            )
    return np.array([record["width"] > record["height"] for record in dataset_dicts], dtype=bool)
