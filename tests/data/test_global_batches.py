"""Streams from a later draw, batches of all ranks, orientations."""

import itertools

import pytest
from loader_fixtures import FACTORS

from balms_det.data.draws import RepeatAwareSampler
from balms_det.data.resumable_loader import GlobalBatches, landscape_images


@pytest.mark.parametrize("start", [0, 1, 16, 18, 19, 40, 500])
@pytest.mark.parametrize("shuffle", [True, False])
def test_stream_from_a_later_draw(start, shuffle):
    sampler = RepeatAwareSampler(FACTORS, seed=5, shuffle=shuffle)
    whole = list(itertools.islice(sampler.global_draws(), 520))[start:]
    part = list(itertools.islice(sampler.global_draws(start), 520 - start))
    assert part == whole
    assert [draw.carried for draw in part] == [draw.carried for draw in whole]


def test_grouping_needs_sizes():
    with pytest.raises(ValueError, match=r"'a\.jpg' has no width and height"):
        landscape_images([{"file_name": "a.jpg"}])


def test_batches_are_endless_iterators():
    batches = GlobalBatches(RepeatAwareSampler(FACTORS, seed=5), 4)
    assert iter(batches) is batches
    positions = [draw.position for batch in itertools.islice(batches, 6) for draw in batch]
    assert positions == list(range(24))
