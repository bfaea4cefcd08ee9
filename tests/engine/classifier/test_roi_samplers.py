"""Samplers of cached RoIs: what they draw, and that they go on where they stopped."""

from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from balms_det import add_balms_config
from balms_det.classifier import ROI_SAMPLER_REGISTRY, RoIPool, build_roi_sampler
from balms_det.classifier.pool import RoIGroups

K, IMAGES = 4, 12


class Table:
    """12 images: class 0 in all, class 1 in every third, class 3 in the last; 9 background each."""

    def __init__(self, background=9):
        rows = []
        for image in range(IMAGES):
            own = [0] * 6 + [1] * 3 * (image % 3 == 0) + [3] * 2 * (image == IMAGES - 1)
            objects = [10 * image + c for c in own]
            rows += [(c, image, o) for c, o in zip(own, objects)]
            rows += [(K, image, -1)] * background
        np.random.default_rng(0).shuffle(rows)
        self.gt_classes, self.image, self.objects = torch.tensor(rows).T
        self.features = torch.arange(len(rows)).float().unsqueeze(1).repeat(1, 3).half()

    def __len__(self):
        return len(self.gt_classes)

    def gather(self, index):
        return self.features[index]


@pytest.fixture(scope="module")
def pool():
    return RoIPool(Table(), K)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_balms_config(cfg)
    cfg.SEED = 5
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 8
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 0.5
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    return cfg


def draw(sampler, batches):
    return [next(sampler) for _ in range(batches)]


def labels(pool, rows):
    return Counter(pool.gt_classes[torch.cat(rows)].tolist())


def test_natural_batches_are_composed_as_the_detectors(cfg, pool):
    for rows in draw(build_roi_sampler(cfg, pool), 30):
        images = Counter(pool.table.image[rows].tolist())
        assert len(rows) == 32 and set(images.values()) == {8} and len(images) == 4
        assert len(set(rows.tolist())) == 32  # an image's RoIs are drawn without replacement
        assert int((pool.gt_classes[rows] < K).sum()) == 16


def test_natural_epochs_hold_every_image_once(cfg, pool):
    batches = draw(build_roi_sampler(cfg, pool), 3)
    assert Counter(pool.table.image[torch.cat(batches)].tolist()) == dict.fromkeys(range(12), 8)


def test_an_image_short_of_background_gives_fewer(cfg):
    pool = RoIPool(Table(background=1), K)
    (rows,) = draw(build_roi_sampler(cfg, pool), 1)
    assert len(rows) == 4 * (4 + 1)


def test_background_that_was_not_kept_comes_from_other_images(cfg):
    pool = RoIPool(Table(background=2), K, background=2)
    (rows,) = draw(build_roi_sampler(cfg, pool), 1)
    assert len(rows) == 32 and int((pool.gt_classes[rows] < K).sum()) == 16
    pool = RoIPool(Table(background=2), K, background=3)  # there were no more than two
    assert len(draw(build_roi_sampler(cfg, pool), 1)[0]) == 4 * (4 + 2)


def test_views_of_an_image_count_as_one(cfg):
    pool = RoIPool(Table(), K, views=3)
    (rows,) = draw(build_roi_sampler(cfg, pool), 1)
    images = Counter(pool.table.image[rows].tolist())
    # 6 or 9 foreground RoIs in three views: 2 or 3 in one, and 3 of 9 background ones.
    assert set(images.values()) <= {2 + 3, 3 + 3}


def test_images_are_drawn_by_their_sampler(cfg, pool):
    cfg.DATALOADER.SAMPLER_TRAIN = "ClassBalancedTrainingSampler"
    balanced = labels(pool, draw(build_roi_sampler(cfg, pool), 60))
    cfg.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"
    natural = labels(pool, draw(build_roi_sampler(cfg, pool), 60))
    assert balanced[3] > 3 * natural[3] > 0


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
def test_classes_are_drawn_by_a_power_of_their_rois(cfg, pool, power):
    name = {1.0: "InstanceBalancedSampler", 0.5: "SquareRootSampler", 0.0: "ClassBalancedSampler"}
    drawn = labels(pool, draw(build_roi_sampler(cfg, pool, name[power]), 400))
    count = np.array([72.0, 12, 0, 2])
    rate = np.where(count > 0, count**power, 0)
    share = np.array([drawn[c] for c in range(K)]) / (400 * 16)
    assert share == pytest.approx(rate / rate.sum(), abs=0.02)
    assert drawn[K] == 400 * 16  # the detector's share of background


def test_the_share_of_foreground_can_be_chosen(cfg, pool):
    cfg.CLASSIFIER.FOREGROUND = 0.25
    (rows,) = draw(build_roi_sampler(cfg, pool, "ClassBalancedSampler"), 1)
    assert int((pool.gt_classes[rows] < K).sum()) == 8


def test_rates_act_from_the_next_block_on(cfg, pool):
    sampler = build_roi_sampler(cfg, pool, "MetaRateSampler")
    assert labels(pool, draw(sampler, sampler.block))[3] > 0
    sampler.set_rates(torch.tensor([0.5, 0.5, 0.5, 0.0]))
    assert labels(pool, draw(sampler, 5 * sampler.block))[3] == 0
    for rates in (torch.ones(K + 1), torch.tensor([1, -1, 1, 1.0]), torch.zeros(K)):
        with pytest.raises(ValueError, match="class rates"):
            sampler.set_rates(rates)


NAMES = sorted(name for name, _ in ROI_SAMPLER_REGISTRY)


@pytest.mark.parametrize("images", ["TrainingSampler", "MetaTrainingSampler"])
@pytest.mark.parametrize("name", NAMES)
def test_a_sampler_goes_on_where_it_stopped(cfg, pool, name, images):
    cfg.DATALOADER.SAMPLER_TRAIN = images
    sampler, other = (build_roi_sampler(cfg, pool, name) for _ in range(2))
    draw(sampler, 20)
    sampler.set_rates(torch.tensor([0.2, 0.9, 0.5, 0.4]))
    draw(sampler, 7)
    other.load_state_dict(sampler.state_dict())
    for mine, its in zip(draw(sampler, 30), draw(other, 30)):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("name", NAMES)
def test_draws_depend_on_the_seed_alone(cfg, pool, name):
    same = [draw(build_roi_sampler(cfg, pool, name), 25) for _ in range(2)]
    assert all(map(torch.equal, *same))
    cfg.SEED = 6
    assert not all(map(torch.equal, same[0], draw(build_roi_sampler(cfg, pool, name), 25)))


def test_objects_are_counted_once(pool):
    incidence = pool.incidence
    assert incidence.image_count.tolist() == [12, 4, 0, 1]
    assert incidence.instance_count.tolist() == [12, 4, 0, 1]


def test_features_come_in_the_order_of_the_rows(pool):
    index = torch.tensor([7, 3, 7])
    on_disk = RoIPool(pool.table, K, memory_limit=0)
    for own in (pool, on_disk):
        assert own.features(index)[:, 0].tolist() == [7, 3, 7]
        assert own.features(index).dtype == torch.float32
    assert on_disk._features is None and pool._features is not None


def test_different_rows_of_groups():
    groups = RoIGroups(np.array([2, 0, -1, 2, 2, 0]), 3)
    rng = np.random.default_rng(0)
    rows, owner = groups.distinct(np.array([2, 1, 0, 2]), np.array([2, 5, 5, 0]), rng)
    assert owner.tolist() == [0, 0, 2, 2]
    assert len(set(rows[:2])) == 2 and set(rows[:2]) <= {0, 3, 4} and set(rows[2:]) == {1, 5}


def test_wrong_choices_are_errors(cfg, pool):
    with pytest.raises(ValueError, match=r"Unknown sampler 'Nobody'.*ClassBalancedSampler"):
        build_roi_sampler(cfg, pool, "Nobody")
    cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    with pytest.raises(ValueError, match="cannot draw from a cache"):
        build_roi_sampler(cfg, pool)
    no_background = RoIPool(Table(background=0), K)
    cfg.CLASSIFIER.FOREGROUND = 0.5
    with pytest.raises(ValueError, match="16 background RoIs, and the cache has none"):
        build_roi_sampler(cfg, no_background, "ClassBalancedSampler")
    cfg.CLASSIFIER.FOREGROUND = 1.5
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        build_roi_sampler(cfg, pool, "ClassBalancedSampler")
