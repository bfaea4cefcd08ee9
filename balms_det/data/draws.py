"""Draws that know which repeat of their image they are, from the sampler to the mapper.

A sampler that repeats images yields a :class:`DrawIndex` for each draw: the index of the image and,
carried along, ``repeat`` (0 for the first draw of that image in the epoch, then 1, 2, ...) and
``num_repeats`` (its draws in that epoch). :class:`DrawAwareDataset` adds what is carried to the
dataset dict, where the mapper finds it.

A sampler of ours has ``global_draws(start)``: the endless stream of all ranks' draws from number
``start`` on, of which plain iteration gives this rank's share. The resumable loader
(:mod:`balms_det.data.resumable_loader`) reads it. A sampler whose draws are not a function of its
seed and their number alone also has ``state_dict`` and ``load_state_dict``; its stream goes on from
its state. One without ``global_draws`` is read by Detectron2's own loader; so is a subclass that
overrides ``__iter__`` alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.data.common import MapDataset
from detectron2.data.samplers import RepeatFactorTrainingSampler


class DrawIndex(int):
    """An index into a dataset that carries what the sampler knows about the draw.

    It is an ``int`` wherever one is expected, and survives pickling. ``carried`` is open: a sampler
    may add keys of its own, which then appear in the dataset dict that the mapper receives. Their
    values are plain Python numbers, strings, lists or dicts: checkpoints hold them.
    """

    carried: dict
    position: int | None = None  # number of the draw in the stream of all ranks, once it is known

    def __new__(cls, index: int, **carried) -> DrawIndex:
        draw = super().__new__(cls, index)
        draw.carried = carried
        return draw

    @property
    def repeat(self) -> int:
        return self.carried.get("repeat", 0)

    def at(self, position: int) -> DrawIndex:
        """The same draw, as number ``position`` of the stream of all ranks."""
        draw = DrawIndex(self, **self.carried)
        draw.position = position
        return draw


def has_global_draws(sampler) -> bool:
    """Whether ``sampler.global_draws`` exists and is what plain iteration gives shares of."""

    def depth(name: str) -> int:
        classes = type(sampler).__mro__
        return next((i for i, c in enumerate(classes) if name in vars(c)), len(classes))

    own = depth("global_draws")
    return own < len(type(sampler).__mro__) and own <= min(
        depth("__iter__"), depth("_infinite_indices")
    )


def count_repeats(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For a (M,) sequence of draws: (M,) how often each was drawn before, (M,) how often in all."""
    order = np.argsort(indices, kind="stable")
    _, first, count = np.unique(indices[order], return_index=True, return_counts=True)
    repeat = np.empty(len(indices), dtype=np.int64)
    repeat[order] = np.arange(len(indices)) - np.repeat(first, count)
    num_repeats = np.empty_like(repeat)
    num_repeats[order] = np.repeat(count, count)
    return repeat, num_repeats


class RepeatAwareSampler(RepeatFactorTrainingSampler):
    """Detectron2's repeat-factor sampler, index for index, that yields :class:`DrawIndex`.

    Endless, seeded, and sliced by rank as the original. Only the making of an epoch is vectorised
    and shared, because every loader worker runs the sampler once per image of its batch.
    """

    def __init__(self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed=None):
        super().__init__(repeat_factors, shuffle=shuffle, seed=seed)
        self._epochs: dict[int, tuple[np.ndarray, torch.Tensor]] = {}

    def _get_epoch_indices(self, generator: torch.Generator) -> torch.Tensor:
        uniforms = torch.rand(len(self._frac_part), generator=generator)
        return self._round(uniforms)

    def _round(self, uniforms: torch.Tensor) -> torch.Tensor:
        """Stochastic rounding: image i gets one more draw when ``uniforms[i] < fraction[i]``."""
        draws = self._int_part.long() + (uniforms < self._frac_part).long()
        return torch.repeat_interleave(torch.arange(len(draws)), draws)

    def _infinite_indices(self):
        return self.global_draws()

    def global_draws(self, start: int = 0) -> Iterator[DrawIndex]:
        """The draws of all ranks, from number ``start`` on; epochs before it cost little."""
        state = None
        for number in itertools.count():
            draws, state = self._epoch(number, state)
            for index, repeat, num_repeats in zip(*draws[:, start:]):
                yield DrawIndex(index, repeat=int(repeat), num_repeats=int(num_repeats))
            start = max(start - draws.shape[1], 0)

    def _epoch(self, number: int, state: torch.Tensor | None) -> tuple[np.ndarray, torch.Tensor]:
        """(3, M) int32 draws (index, repeat, num_repeats) and the generator's state after them.

        A loader worker reads as many streams of the sampler as there are images in a batch, about
        in step: they share the last two epochs.
        """
        if number not in self._epochs:
            generator = torch.Generator()
            generator.manual_seed(self._seed)
            if state is not None:
                generator.set_state(state)
            indices = self._get_epoch_indices(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            draws = np.stack([indices, *count_repeats(indices.numpy())]).astype(np.int32)
            self._epochs = dict(
                [*self._epochs.items(), (number, (draws, generator.get_state()))][-2:]
            )
        return self._epochs[number]


class DrawAwareDataset(MapDataset):
    """Maps dataset dicts, each with what its :class:`DrawIndex` carries added to a shallow copy.

    Detectron2's ``MapDataset`` turns an index into a plain ``int``, which would lose it; so give
    this one to ``build_detection_train_loader`` with ``mapper=None``.
    """

    def __init__(self, dataset, map_func):
        super().__init__(dataset, map_func)
        self._records = dataset

    def __getitem__(self, index):
        record = {**self._records[int(index)], **getattr(index, "carried", {})}
        mapped = self._map_func(record)
        # A mapper may return None to skip an image: Detectron2's retry picks another one.
        return super().__getitem__(index) if mapped is None else mapped
