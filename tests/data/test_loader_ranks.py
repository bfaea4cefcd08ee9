"""The resumable loader on several ranks: they share one stream and one state."""

import numpy as np
import pytest
import torch
from loader_fixtures import make, take


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
