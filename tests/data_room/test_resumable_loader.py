"""The resumable loader: Detectron2's order, draw-wise randomness, ranks, resume in mid-stream."""

import itertools
import random

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader

from balms_det.data.draws import DrawIndex, RepeatAwareSampler
from balms_det.data.global_batches import GlobalBatches, landscape_images
from balms_det.data.resumable_loader import MAX_SKIPPED, ResumableLoader, SeededMapDataset

FACTORS = torch.tensor([1.0, 2.5, 1.0, 3.3, 1.2, 1.0, 7.0, 1.0, 1.0])


def records(count=9):
    """Every third image is upright."""
    shapes = [(4, 6) if i % 3 else (6, 4) for i in range(count)]
    return [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(shapes)]


def random_mapper(record):
    """What a mapper may do: draw from all three generators, and keep what the draw carries."""
    noise = random.random(), np.random.rand(), torch.rand(1).item()
    return {**record, "noise": noise}


def make(batch_size=4, workers=0, grouping=True, seed=5, factors=FACTORS):
    images = records(len(factors))
    return ResumableLoader(
        SeededMapDataset(images, random_mapper, seed),
        RepeatAwareSampler(factors, seed=seed),
        total_batch_size=batch_size,
        landscape=landscape_images(images) if grouping else None,
        num_workers=workers,
    )


def take(loader, count):
    return list(itertools.islice(loader, count))


def ids(batches):
    return [[example["id"] for example in batch] for batch in batches]


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


def ranks(monkeypatch, world_size, **keys):
    for rank in range(world_size):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: world_size)
        yield make(**keys)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batches_of_one(monkeypatch, world_size):
    whole = take(make(), 20)
    parts = [take(loader, 20) for loader in ranks(monkeypatch, world_size)]
    for number, batch in enumerate(whole):
        assert [part[number] for part in parts] == [batch[r::world_size] for r in range(world_size)]


def test_no_two_ranks_draw_an_image_more_often_than_its_factor(monkeypatch):
    """Over whole epochs every draw (image, repeat) comes once, on one rank."""
    factors = torch.ones(9)
    one, two = (
        [example["id"] for batch in take(loader, 9) for example in batch]
        for loader in ranks(monkeypatch, 2, factors=factors, batch_size=2, grouping=False)
    )
    assert np.bincount(one + two).tolist() == [2] * 9  # 18 draws are two epochs
    epochs = [sorted(one[:4] + two[:4]), sorted(one[5:] + two[5:])]
    assert all(len(set(epoch)) == 8 for epoch in epochs)


def test_state_of_rank_0_serves_all_ranks_and_another_number_of_them(monkeypatch):
    straight = take(make(), 12)
    first, *_ = [loader for loader in ranks(monkeypatch, 2) if take(loader, 5)]
    state = first.state_dict()
    for world_size in (1, 2, 4):
        for rank, loader in enumerate(ranks(monkeypatch, world_size)):
            loader.load_state_dict(state)
            assert take(loader, 7) == [batch[rank::world_size] for batch in straight[5:]]


def test_batch_that_the_ranks_cannot_share(monkeypatch):
    with pytest.raises(ValueError, match=r"batch of 3 .* 2 processes: check SOLVER\.IMS_PER_BATCH"):
        next(ranks(monkeypatch, 2, batch_size=3))


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


@pytest.mark.parametrize("start", [0, 1, 16, 18, 19, 40, 500])
@pytest.mark.parametrize("shuffle", [True, False])
def test_stream_from_a_later_draw(start, shuffle):
    sampler = RepeatAwareSampler(FACTORS, seed=5, shuffle=shuffle)
    whole = list(itertools.islice(sampler.global_draws(), 520))[start:]
    part = list(itertools.islice(sampler.global_draws(start), 520 - start))
    assert part == whole
    assert [draw.carried for draw in part] == [draw.carried for draw in whole]


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


def test_grouping_needs_sizes():
    with pytest.raises(ValueError, match=r"'a\.jpg' has no width and height"):
        landscape_images([{"file_name": "a.jpg"}])


def test_batches_are_endless_iterators():
    batches = GlobalBatches(RepeatAwareSampler(FACTORS, seed=5), 4)
    assert iter(batches) is batches
    positions = [draw.position for batch in itertools.islice(batches, 6) for draw in batch]
    assert positions == list(range(24))
