"""The resumable loader: Detectron2's order, draw-wise randomness, resume in mid-stream."""

import gc
import itertools
import random
import weakref

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from loader_fixtures import FACTORS, ids, make, random_mapper, records, take

from balms_det.data.draws import DrawIndex, RepeatAwareSampler
from balms_det.data.resumable_loader import MAX_SKIPPED, ResumableLoader, SeededMapDataset


@pytest.mark.parametrize("grouping", [True, False])
def test_order_is_detectron2s(grouping):
    theirs = build_detection_train_loader(
        records(),
        mapper=dict,
        sampler=RepeatAwareSampler(FACTORS, seed=5),
        total_batch_size=4,
        aspect_ratio_grouping=grouping,
    )
    assert ids(take(make(grouping=grouping), 30)) == ids(take(theirs, 30))


def test_batches_have_one_orientation():
    for batch in take(make(), 30):
        assert len({example["width"] > example["height"] for example in batch}) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    assert take(make(workers=workers), 12) == take(make(), 12)


def test_randomness_belongs_to_the_draw():
    batches = take(make(), 12)
    noise = [example["noise"] for batch in batches for example in batch]
    assert len(set(noise)) == len(noise)
    other = take(make(seed=6), 12)
    assert not set(noise) & {example["noise"] for batch in other for example in batch}


def test_global_generators_are_left_alone():
    loader = make()
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    take(loader, 3)
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1][1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("before, after", [(0, 0), (2, 2), (2, 0), (0, 2)])
def test_a_resumed_loader_goes_on_with_the_next_batch(grouping, before, after, tmp_path):
    straight = take(make(grouping=grouping), 12)
    for stop in (0, 1, 5):
        first = make(workers=before, grouping=grouping)
        assert take(first, stop) == straight[:stop]
        torch.save(first.state_dict(), tmp_path / "state.pth")
        second = make(workers=after, grouping=grouping)
        take(second, 2)  # a loader that already ran is put back as well
        second.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
        assert take(second, 12 - stop) == straight[stop:]


def test_state_is_that_of_a_loader_without_prefetching():
    """A state does not depend on how far the workers are ahead, except for what was read."""
    eager, lazy = make(workers=2), make()
    take(eager, 5)
    take(lazy, 5)
    ahead = [tuple(draw[:2]) for draw in eager.state_dict()["waiting"]]
    waiting = [tuple(draw[:2]) for draw in lazy.state_dict()["waiting"]]
    assert set(waiting) <= set(ahead)
    assert (
        len(ahead) - len(waiting)
        == eager.state_dict()["num_draws"] - lazy.state_dict()["num_draws"]
    )


def test_resume_twice():
    straight = take(make(), 9)
    loader = make()
    for stop in (3, 6, 9):
        assert take(loader, 3) == straight[stop - 3 : stop]
        state, loader = loader.state_dict(), make()
        loader.load_state_dict(state)


def test_resume_with_another_batch_size_loses_and_repeats_nothing():
    loader = make(batch_size=4)
    seen = [i for batch in ids(take(loader, 5)) for i in batch]
    smaller = make(batch_size=2)
    smaller.load_state_dict(loader.state_dict())
    batches = take(smaller, 40)
    assert {len(batch) for batch in batches} == {2}
    seen += [i for batch in ids(batches) for i in batch]
    stream = itertools.islice(RepeatAwareSampler(FACTORS, seed=5).global_draws(), 200)
    expected = np.bincount([int(draw) for draw in stream], minlength=len(FACTORS))
    assert (np.bincount(seen, minlength=len(FACTORS)) <= expected).all()


def test_another_dataset_or_sampler_starts_over(caplog):
    loader = make()
    take(loader, 3)
    other = make(factors=torch.ones(6))
    other.load_state_dict(loader.state_dict())
    assert "start over" in caplog.text and "'num_images': 9" in caplog.text
    assert take(other, 5) == take(make(factors=torch.ones(6)), 5)


class Changing(torch.utils.data.Sampler):
    """Draws from a counter, in steps that can be changed while it runs."""

    def __init__(self):
        self.at, self.step = 0, 1

    def global_draws(self, start=0):
        while True:
            self.at = (self.at + self.step) % 9
            yield DrawIndex(self.at, step=self.step)

    def state_dict(self):
        return {"at": self.at, "step": self.step}

    def load_state_dict(self, state):
        self.at, self.step = state["at"], state["step"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_changing_sampler_resumes_with_its_state(workers):
    def run(loader, steps, first=0):
        out = []
        for step in range(first, steps):
            loader.sampler.step = 1 + step // 4
            out.append(next(loader))
        return out

    def fresh():
        images = SeededMapDataset(records(), random_mapper, 0)
        return ResumableLoader(images, Changing(), total_batch_size=2, num_workers=workers)

    straight = run(fresh(), 14)
    assert {example["step"] for batch in straight for example in batch} == {1, 2, 3, 4} - (
        {4} if workers else set()
    )
    first, second = fresh(), fresh()
    run(first, 7)
    second.load_state_dict(first.state_dict())
    assert run(second, 14, first=7) == straight[7:]


def test_skipped_images_are_replaced_reproducibly():
    def mapper(record):
        return None if record["id"] == 6 else record["id"]

    def draw():
        dataset = SeededMapDataset(records(), mapper, 3)
        return [dataset[DrawIndex(6).at(position)] for position in range(20)]

    assert draw() == draw() and 6 not in draw() and len(set(draw())) > 1
    skips_all = SeededMapDataset(records(), lambda record: None, 3)
    with pytest.raises(RuntimeError, match=f"None for {MAX_SKIPPED + 1} images"):
        skips_all[DrawIndex(0).at(0)]


def test_a_loader_is_freed_at_once():
    loader = make(workers=2)
    take(loader, 1)
    freed = weakref.ref(loader._mapped)
    gc.disable()
    try:
        del loader
        assert freed() is None  # a cycle would be left to the garbage collector, see _dispatch
    finally:
        gc.enable()
