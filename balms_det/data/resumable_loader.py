"""A training loader that, after a restart, goes on with the very next batch.

The draws of the sampler are read, and batches formed, in the main process of every rank, alike on
all of them; rank r of W maps images r, r + W, ... of each batch. Loader workers only map images. So
a sampler may change while it runs, and only the batches that workers already have are older.

Symbols: N images; a *draw* is a :class:`DrawIndex` with its position in the stream of all ranks;
``B`` the batch size over all ranks.

"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import DataLoader, Dataset

from balms_det.data.draws import DrawIndex
from balms_det.utils.randomness import derived_seed, local_randomness

logger = logging.getLogger(__name__)

# So many other images are tried when the mapper skips one, before that is an error.
MAX_SKIPPED = 100


class SeededMapDataset(Dataset):
    """Maps dataset dicts; what is random in it follows from the seed and the draw's position.

    Python's, numpy's and torch's global generators are seeded for every image and afterwards put
    back. The dict that the mapper gets also has what the :class:`DrawIndex` carries.

    Args:
        records: N dataset dicts, of which the mapper may change the one it gets.
        mapper: from a dataset dict to an example, or to None to have another image.
        seed: not negative.
    """

    def __init__(self, records: Sequence[dict], mapper: Callable, seed: int):
        self.records = records
        self.mapper = PicklableWrapper(mapper)  # so that a lambda reaches the workers
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: DrawIndex):
        """Raises RuntimeError when the mapper returns None for one image after the other."""
        with local_randomness(derived_seed("draw", self.seed, draw.position)):
            mapped = self.mapper({**self.records[int(draw)], **draw.carried})
            if mapped is not None:
                return mapped
            for _ in range(MAX_SKIPPED):
                mapped = self.mapper(dict(self.records[np.random.randint(len(self))]))
                if mapped is not None:
                    return mapped
        raise RuntimeError(f"The mapper returned None for {MAX_SKIPPED + 1} images in a row.")


class ResumableLoader(Iterator):
    """Endless batches of this rank, lists of mapped examples, with a state to resume from.

    It is its own iterator: every ``iter`` of it goes on after the batch that was returned last.

    Args:
        dataset: takes a :class:`DrawIndex` with its position.
        sampler: has ``global_draws``, see :mod:`balms_det.data.draws`. It may be changed while the
            loader runs, alike on all ranks.
        total_batch_size: images of a batch over all ranks.
        landscape: (N,) bool; None for no aspect-ratio grouping. See :class:`GlobalBatches`.
        num_workers: processes that map images; 0 maps in this one.

    Raises:
        ValueError: the ranks cannot share a batch evenly.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler,
        *,
        total_batch_size: int,
        landscape: np.ndarray | None = None,
        num_workers: int = 0,
    ):
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()
        if total_batch_size <= 0 or total_batch_size % self._world_size:
            raise ValueError(
                f"A batch of {total_batch_size} images cannot be shared evenly by "
                f"{self._world_size} processes: check SOLVER.IMS_PER_BATCH (for the meta set, "
                "META.IMS_PER_BATCH)."
            )
        self.dataset = dataset
        self.sampler = sampler
        self._num_workers = num_workers
        self._batches = GlobalBatches(sampler, total_batch_size, landscape)
        self._in_work: deque[list[DrawIndex]] = deque()
        self._mapped = None

    def __next__(self) -> list:
        if self._mapped is None:
            self._mapped = iter(self._data_loader())
        examples = next(self._mapped)
        self._in_work.popleft()
        return examples

    def _data_loader(self) -> DataLoader:
        return DataLoader(
            self.dataset,
            batch_sampler=_dispatch(self._batches, self._in_work, self._rank, self._world_size),
            num_workers=self._num_workers,
            collate_fn=_as_list,
            # A DataLoader draws a seed for its workers when it starts; taken from torch's global
            # generator, that would change the model's randomness at every restart.
            generator=torch.Generator(),
        )

    def state_dict(self) -> dict:
        """What the next batches follow from; plain values, the same on every rank.

        Batches that are prefetched but not yet returned will come again after a resume.
        """
        return {
            "sampler_name": type(self.sampler).__name__,
            "num_images": len(self.dataset),
            **self._batches.state_dict(self._in_work),
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on where ``state_dict`` was taken, with any number of ranks and workers.

        With another sampler or number of images the data start over, and a warning says so.
        """
        mine = {"sampler_name": type(self.sampler).__name__, "num_images": len(self.dataset)}
        theirs = {key: state[key] for key in mine}
        if mine != theirs:
            logger.warning(
                f"The training data start over: the checkpoint was saved with {theirs}, and this "
                f"run has {mine}."
            )
            return
        self._batches.load_state_dict(state)
        self._in_work.clear()
        self._mapped = None


def _dispatch(
    batches: Iterable, in_work: deque, rank: int, world_size: int
) -> Iterator[list[DrawIndex]]:
    """A rank's share of every batch; ``in_work`` gets the batch whole.

    Not a method: a generator that holds the loader whose iterator holds the generator is freed by
    the garbage collector only, which ends the workers' queues first and then waits 10 s for each.
    """
    for batch in batches:
        in_work.append(batch)
        yield batch[rank::world_size]


def _as_list(examples: list) -> list:
    return examples


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
