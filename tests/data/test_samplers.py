"""Samplers: golden repeat factors, Detectron2's index stream, groups, bad input."""

import copy
import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import samplers as d2_samplers

from balms_det import add_balms_config
from balms_det.data.class_stats import ClassStats
from balms_det.data.draws import DrawAwareDataset, DrawIndex, count_repeats
from balms_det.data.repeat_factors import CategoryIncidence, class_repeat_factors
from balms_det.data.samplers import (
    SAMPLER_REGISTRY,
    ClassBalancedTrainingSampler,
    InstanceAwareRepeatFactorTrainingSampler,
    RepeatFactorTrainingSampler,
    build_sampler,
)
from balms_det.data.stats_report import factor_table

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"


def golden(name):
    record = json.loads((GOLDEN / f"sampler_{name}.json").read_text())
    return dicts(record["dataset"]["category_ids_per_image"]), record["cases"]


def dicts(ids_per_image):
    return [
        {"file_name": f"{i}.jpg", "annotations": [{"category_id": c} for c in ids]}
        for i, ids in enumerate(ids_per_image)
    ]


def config(sampler, thresh=0.5, seed=3):
    cfg = get_cfg()
    add_balms_config(cfg)
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.REPEAT_THRESHOLD = thresh
    cfg.SEED = seed
    return cfg


@pytest.mark.parametrize(
    "case", golden("rfs")[1], ids=lambda c: f"{c['repeat_thresh']}-{c['sqrt']}"
)
def test_rfs_golden(case):
    incidence = CategoryIncidence.from_dicts(golden("rfs")[0])
    sampler = RepeatFactorTrainingSampler(
        incidence,
        repeat_thresh=case["repeat_thresh"],
        repeat_sqrt=case["sqrt"],
        shuffle=False,
        seed=7,
    )
    np.testing.assert_allclose(sampler.repeat_factors, case["repeat_factors"], rtol=1e-6)
    uniforms = torch.tensor(case["epoch_uniforms"])
    assert sampler._round(uniforms).tolist() == case["epoch_indices"]
    epoch = list(itertools.islice(sampler, len(case["epoch_indices"])))
    assert epoch == case["epoch_indices"]


@pytest.mark.parametrize("case", golden("irfs")[1], ids=lambda c: str(c["repeat_thresh"]))
def test_irfs_golden(case):
    incidence = CategoryIncidence.from_dicts(golden("irfs")[0])
    sampler = InstanceAwareRepeatFactorTrainingSampler(
        incidence, repeat_thresh=case["repeat_thresh"], seed=0
    )
    factors = sampler.category_factors(incidence)
    np.testing.assert_allclose(factors, case["category_repeat"], rtol=1e-6)
    np.testing.assert_allclose(sampler.repeat_factors, case["repeat_factors"], rtol=1e-6)


def test_cbs_golden():
    records, (case,) = golden("balms_class_balanced")
    sampler = ClassBalancedTrainingSampler(CategoryIncidence.from_dicts(records), seed=0)
    np.testing.assert_allclose(sampler.repeat_factors, case["repeat_factors"], rtol=1e-6)


def random_dicts(num_images=200, num_classes=30, seed=0):
    rng = np.random.default_rng(seed)
    probability = 1 / np.arange(1, num_classes + 1)
    probability /= probability.sum()
    sizes = rng.integers(0, 6, num_images)
    return dicts([rng.choice(num_classes, size, p=probability).tolist() for size in sizes])


@pytest.mark.parametrize("shuffle", [True, False])
def test_rfs_is_detectron2s_sampler_index_for_index(shuffle):
    records = random_dicts()
    factors = d2_samplers.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, 0.2
    )
    theirs = d2_samplers.RepeatFactorTrainingSampler(factors, shuffle=shuffle, seed=5)
    ours = RepeatFactorTrainingSampler(
        CategoryIncidence.from_dicts(records), repeat_thresh=0.2, shuffle=shuffle, seed=5
    )
    assert torch.equal(ours.repeat_factors, factors)
    assert list(itertools.islice(ours, 1500)) == list(itertools.islice(theirs, 1500))


@pytest.mark.parametrize("num_images", [3, 200])
def test_streams_of_one_sampler_do_not_disturb_each_other(num_images):
    """A loader worker reads several at once, not quite in step."""
    incidence = CategoryIncidence.from_dicts(random_dicts(num_images))
    sampler = RepeatFactorTrainingSampler(incidence, repeat_thresh=0.2, seed=5)
    alone = list(itertools.islice(sampler, 700))
    ahead, behind = iter(sampler), iter(sampler)
    first = list(itertools.islice(ahead, 500))
    second = list(itertools.islice(behind, 300))
    first += itertools.islice(ahead, 200)
    second += itertools.islice(behind, 400)
    assert first == second == alone
    assert [draw.repeat for draw in first] == [draw.repeat for draw in alone]
    assert len(sampler._epochs) <= 2


def test_ranks_slice_one_stream(monkeypatch):
    incidence = CategoryIncidence.from_dicts(random_dicts())
    whole = RepeatFactorTrainingSampler(incidence, repeat_thresh=0.2, seed=5)
    stream = list(itertools.islice(whole, 600))
    for rank in range(3):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
        part = RepeatFactorTrainingSampler(incidence, repeat_thresh=0.2, seed=5)
        assert list(itertools.islice(part, 200)) == stream[rank::3]


@pytest.mark.parametrize("name", sorted(key for key, _ in SAMPLER_REGISTRY))
def test_every_sampler_takes_images_without_annotations(name):
    records = [*random_dicts(40), {"file_name": "bare.jpg"}, {"file_name": "b", "annotations": []}]
    sampler = build_sampler(config(name), records)
    drawn = set(map(int, itertools.islice(sampler, 5000)))
    assert drawn == set(range(len(records)))


def test_empty_image_factors():
    incidence = CategoryIncidence.from_dicts([*golden("rfs")[0], {"annotations": []}])
    rfs = RepeatFactorTrainingSampler(incidence, repeat_thresh=0.5, seed=0)
    cbs = ClassBalancedTrainingSampler(incidence, seed=0)
    assert rfs.repeat_factors[-1] == 1
    assert cbs.repeat_factors[-1] == cbs.repeat_factors.min() == pytest.approx(11 / 9)


def test_repeats_are_numbered_within_the_epoch():
    incidence = CategoryIncidence.from_dicts(golden("rfs")[0])
    sampler = ClassBalancedTrainingSampler(incidence, seed=1)
    epoch = int(sampler._get_epoch_indices(torch.Generator().manual_seed(1)).numel())
    draws = list(itertools.islice(sampler, epoch))
    for image in range(10):
        mine = [draw for draw in draws if draw == image]
        assert [draw.repeat for draw in mine] == list(range(len(mine)))
        assert {draw.carried["num_repeats"] for draw in mine} == {len(mine)}


def test_count_repeats():
    repeat, total = count_repeats(np.array([4, 1, 4, 4, 0, 1]))
    assert repeat.tolist() == [0, 0, 1, 2, 0, 1]
    assert total.tolist() == [3, 2, 3, 3, 1, 2]


def test_draw_index_survives_pickle_and_copy():
    draw = DrawIndex(7, repeat=2, rate=0.5)
    for twin in (pickle.loads(pickle.dumps(draw)), copy.deepcopy(draw)):
        assert twin == 7 and twin.repeat == 2 and twin.carried["rate"] == 0.5
    assert DrawIndex(3).repeat == 0


def test_dataset_adds_what_the_draw_carries_and_leaves_the_source_alone():
    records = dicts([[0], [1]])
    dataset = DrawAwareDataset(records, dict)
    assert dataset[DrawIndex(1, repeat=4)] == {**records[1], "repeat": 4}
    assert dataset[1] == records[1] and "repeat" not in records[1]


def test_dataset_falls_back_when_the_mapper_skips():
    records = dicts([[0], [1]])
    dataset = DrawAwareDataset(records, lambda r: None if r["file_name"] == "0.jpg" else r)
    assert dataset[DrawIndex(0, repeat=1)]["file_name"] == "1.jpg"


def test_long_class_balanced_epoch_keeps_the_ratios(monkeypatch):
    monkeypatch.setattr(ClassBalancedTrainingSampler, "MAX_EPOCH_DRAWS", 20)
    sampler = ClassBalancedTrainingSampler(CategoryIncidence.from_dicts(golden("rfs")[0]), seed=0)
    assert sampler.epoch_factors().sum().item() == pytest.approx(20)
    counts = np.bincount(list(itertools.islice(sampler, 40_000)), minlength=10)
    expected = (sampler.repeat_factors / sampler.repeat_factors.sum()).numpy()
    np.testing.assert_allclose(counts / counts.sum(), expected, rtol=0.05)


def test_zero_frequency_is_finite():
    assert class_repeat_factors([0.0, 0.25], thresh=1.0).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="REPEAT_THRESHOLD"):
        class_repeat_factors([0.1], thresh=-1)


def test_unknown_name_lists_the_known():
    with pytest.raises(KeyError, match="ClassBalancedTrainingSampler"):
        build_sampler(config("NoSuchSampler"), dicts([[0]]))


def test_dataset_without_any_annotation():
    with pytest.raises(ValueError, match=r"None of the 2 .*DATASETS\.TRAIN"):
        build_sampler(config("RepeatFactorTrainingSampler"), dicts([[], []]))


def test_negative_class_id_names_the_image():
    with pytest.raises(ValueError, match=r"category_id -1 in '1.jpg'"):
        CategoryIncidence.from_dicts(dicts([[0], [2, -1]]))


def test_factors_are_logged_by_group(caplog):
    records = [*dicts([[0]] * 120 + [[0, 1]] * 30 + [[0, 2]] * 4), {"file_name": "bare.jpg"}]
    with caplog.at_level("INFO"):
        sampler = build_sampler(config("RepeatFactorTrainingSampler", thresh=0.5), records)
    incidence = CategoryIncidence.from_dicts(records)
    table = factor_table(incidence, "fcr", sampler.repeat_factors.numpy(), np.ones(155))
    assert table.splitlines()[1].rsplit(maxsplit=1)[0] in caplog.text
    rows = {line.split()[0]: line.split() for line in table.splitlines()[1:]}
    assert {name: int(row[1]) for name, row in rows.items()} == {
        "none": 1, "rare": 4, "common": 30, "frequent": 120, "all": 155,
    }  # fmt: skip
    assert float(rows["rare"][2]) == pytest.approx((0.5 * 155 / 4) ** 0.5, abs=0.01)


def test_threshold_zero_warns(caplog):
    build_sampler(config("RepeatFactorTrainingSampler", thresh=0.0), dicts([[0], [0, 1]]))
    assert "repeats nothing" in caplog.text


def test_groups_of_the_class_statistics_win(caplog):
    """A small part of LVIS keeps LVIS's own groups."""
    records = dicts([[0]] * 3 + [[0, 1]] * 2)
    own_groups = ClassStats(np.array([5, 2]), np.array([5, 2]), 5, frequency="fc")
    with caplog.at_level("INFO"):
        build_sampler(config("RepeatFactorTrainingSampler"), records, own_groups)
    assert "frequent                3" in caplog.text and "common                  2" in caplog.text


def test_class_that_the_statistics_do_not_know():
    one_class = ClassStats(np.array([5]), np.array([5]), 5)
    with pytest.raises(ValueError, match="class id 1, but the class statistics know 1 class"):
        build_sampler(config("RepeatFactorTrainingSampler"), dicts([[0], [1]]), one_class)
