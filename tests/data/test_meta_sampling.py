"""MetaTrainingSampler: its prior, updates while it runs, what draws carry, bad rates."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from balms_det.data.meta_sampling import BLOCK, MetaTrainingSampler
from balms_det.data.repeat_factors import CategoryIncidence
from balms_det.data.resumable_loader import ResumableLoader, SeededMapDataset
from balms_det.data.samplers import ClassBalancedTrainingSampler

GOLDEN = Path(__file__).parents[1] / "assets" / "golden" / "sampler_balms_class_balanced.json"
# Class 0 is in 4 of 5 images with classes, class 1 in 2, class 3 in 1; class 2 is in none.
CLASSES = [[0], [0], [0, 1], [1, 3], [0], []]


def incidence(classes=CLASSES):
    return CategoryIncidence.from_dicts(
        [{"annotations": [{"category_id": c} for c in image]} for image in classes]
    )


def sampler(seed=1):
    return MetaTrainingSampler(incidence(), seed=seed)


def drawn(stream, count):
    return list(itertools.islice(stream, count))


def test_prior_is_class_balanced_sampling():
    records = json.loads(GOLDEN.read_text())["dataset"]["category_ids_per_image"]
    for classes in (records, [*records, []]):
        ours = MetaTrainingSampler(incidence(classes), seed=0).repeat_factors
        theirs = ClassBalancedTrainingSampler(incidence(classes), seed=0).repeat_factors
        np.testing.assert_allclose(2 * ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("rates", [None, [0.1, 0.9, 0.5, 0.3], [0.5, 0.0, 0.5, 0.25]])
def test_images_are_drawn_in_proportion(rates):
    made = sampler()
    if rates is not None:
        made.set_rates(torch.tensor(rates))
    expected = made.epoch_factors() / made.epoch_factors().sum()
    assert made.epoch_factors().sum().item() == pytest.approx(len(CLASSES))
    counts = np.bincount(drawn(made, 30_000), minlength=len(CLASSES)) / 30_000
    np.testing.assert_allclose(counts, expected, atol=0.012)


def test_weights_by_hand():
    made = sampler()
    made.set_rates(torch.tensor([0.2, 0.6, 0.9, 0.1]))
    # rho / f: 0.2 * 6/4 = 0.3, 0.6 * 6/2 = 1.8, none, 0.1 * 6/1 = 0.6
    np.testing.assert_allclose(made.repeat_factors, [0.3, 0.3, 1.8, 1.8, 0.3, 0.3], rtol=1e-6)
    carried = {int(draw): tuple(draw.carried.values()) for draw in drawn(made, 500)}
    assert {image: winner for image, (winner, _) in carried.items()} == {
        0: 0, 1: 0, 2: 1, 3: 1, 4: 0, 5: -1,
    }  # fmt: skip
    rate = {image: round(rate, 6) for image, (_, rate) in carried.items()}
    assert rate == {0: 0.2, 1: 0.2, 2: 0.6, 3: 0.6, 4: 0.2, 5: 0.2}


def test_update_acts_from_the_next_draw_on():
    made = sampler()
    stream = made.global_draws()
    before = drawn(stream, 100)
    assert {draw.carried["meta_rate"] for draw in before} == {0.5}
    made.set_rates(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    after = drawn(stream, 100)
    assert set(after) == {3} and {draw.carried["meta_rate"] for draw in after} == {1.0}
    assert {draw.carried["meta_class"] for draw in after} == {3}


def test_rates_may_come_with_a_graph_and_for_classes_without_images():
    made = sampler()
    made.set_rates(torch.sigmoid(torch.zeros(9, requires_grad=True)))
    assert torch.equal(made.repeat_factors, sampler().repeat_factors)


def test_a_class_with_a_single_instance_gets_its_share():
    made = MetaTrainingSampler(incidence([[0]] * 99 + [[1]]), seed=0)
    counts = np.bincount(drawn(made, 4000))
    assert counts[99] == pytest.approx(2000, abs=150)


@pytest.mark.parametrize(
    "rates, message",
    [
        ([0.5, 0.5, 0.5], r"4 classes, .* shape \(3,\)"),
        ([[0.5] * 4], r"shape \(1, 4\)"),
        ([0.5, float("nan"), 0.5, float("inf")], "class 1 is nan .and 1 more"),
        ([0.5, 0.5, 0.5, -0.1], "class 3 is -0.1"),
        ([0.0, 0.0, 0.5, 0.0], "every class that has images has rate 0"),
    ],
)
def test_bad_rates_are_errors_and_change_nothing(rates, message):
    made = sampler()
    with pytest.raises(ValueError, match=message):
        made.set_rates(torch.tensor(rates))
    assert torch.equal(made.repeat_factors, sampler().repeat_factors)


@pytest.mark.parametrize("start", [0, 1, BLOCK - 1, BLOCK, BLOCK + 3, 2 * BLOCK])
def test_stream_from_a_later_draw(start):
    whole = drawn(sampler().global_draws(), 2 * BLOCK + 20)
    assert drawn(sampler().global_draws(start), 20) == whole[start : start + 20]


def test_the_largest_uniform_number_draws_an_image():
    made = sampler()
    made.set_rates(torch.tensor([0.3, 0.0, 0.0, 0.0]))
    made._draw(0.0)
    last = made._draw(1.0)  # a uniform number below 1, times the sum, may be rounded up to it
    assert made.repeat_factors[last] > 0


def test_ranks_slice_one_stream(monkeypatch):
    stream = drawn(sampler(), 90)
    for rank in range(3):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
        assert drawn(sampler(), 30) == stream[rank::3]


def loader(workers):
    records = [{"id": i} for i in range(len(CLASSES))]
    return ResumableLoader(
        SeededMapDataset(records, dict, 0), sampler(), total_batch_size=2, num_workers=workers
    )


def run(batches, steps):
    """Train for these steps, with an update of the rates every third one."""
    seen = []
    for step in steps:
        if step % 3 == 0:
            batches.sampler.set_rates(torch.tensor([0.9, 0.1, 0.5, 0.2]) / (step + 1))
        seen.append(next(batches))
    return seen


@pytest.mark.parametrize("workers, late", [(0, 0), (2, 4)])
def test_updates_reach_a_running_loader(workers, late):
    """Only the batches that the workers already had are older."""
    batches = loader(workers)
    next(batches)
    batches.sampler.set_rates(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    seen = [example["meta_class"] for batch in itertools.islice(batches, 8) for example in batch]
    assert set(seen[2 * late :]) == {3} and (not late or set(seen[: 2 * late]) != {3})


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_with_updates(workers, tmp_path):
    straight = run(loader(workers), range(14))
    stopped, resumed = loader(workers), loader(workers)
    run(stopped, range(7))
    torch.save(stopped.state_dict(), tmp_path / "state.pth")
    resumed.sampler._seed = 12  # as in a run without SEED
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert run(resumed, range(7, 14)) == straight[7:]
