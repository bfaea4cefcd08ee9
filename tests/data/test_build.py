"""The training loader, from a registered dataset to batches."""

import itertools

import numpy as np
import pytest
import torch
from data_fixtures import annotation, record, small_config
from detectron2.data import DatasetCatalog, MetadataCatalog

from balms_det.data.build import build_train_loader
from balms_det.data.class_stats import ClassStats
from balms_det.data.resumable_loader import ResumableLoader
from balms_det.data.samplers import (
    DETECTRON2_SAMPLERS,
    SAMPLER_REGISTRY,
    RepeatFactorTrainingSampler,
)

NAMES = ["often", "seldom"]


def records(tmp_path, classes_of):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3))
    boxes = [(4, 4, 20, 20), (22, 6, 44, 30)]
    return [
        record(
            tmp_path / f"{i}.png", pixels, [annotation(c, boxes[c]) for c in classes], image_id=i
        )
        for i, classes in enumerate(classes_of)
    ]


@pytest.fixture
def dataset(tmp_path):
    """A function that registers images with the given classes and returns the dataset's name."""
    name = f"build_{tmp_path.name}"

    def register(classes_of):
        made = records(tmp_path, classes_of)
        DatasetCatalog.register(name, lambda: made)
        MetadataCatalog.get(name).set(thing_classes=NAMES)
        return name

    yield register
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    MetadataCatalog.pop(name, None)


def config(name, **keys):
    return small_config(DATASETS__TRAIN=(name,), DATALOADER__REPEAT_THRESHOLD=0.5, **keys)


def examples(loader, count):
    return list(itertools.islice(itertools.chain.from_iterable(loader), count))


@pytest.mark.parametrize("sampler", sorted(key for key, _ in SAMPLER_REGISTRY))
@pytest.mark.parametrize("workers", [0, 2])
def test_every_sampler_of_ours_gives_batches(dataset, sampler, workers):
    name = dataset([[0]] * 6 + [[0, 1]])
    cfg = config(name, DATALOADER__SAMPLER_TRAIN=sampler, DATALOADER__NUM_WORKERS=workers)
    batch = next(iter(build_train_loader(cfg)))
    assert len(batch) == 2
    assert all(example["instances"].has("gt_masks") for example in batch)


@pytest.mark.parametrize("workers", [0, 2])
def test_repeats_reach_the_mapper(dataset, workers):
    name = dataset([[0]] * 6 + [[0, 1]])
    cfg = config(
        name,
        DATALOADER__SAMPLER_TRAIN="ClassBalancedTrainingSampler",
        DATALOADER__NUM_WORKERS=workers,
        DATALOADER__ASPECT_RATIO_GROUPING=False,
    )
    # Factors are 7 for the image with the scarce class and 1 for the others.
    drawn = examples(build_train_loader(cfg), 12)
    scarce = sorted(example["repeat"] for example in drawn if example["image_id"] == 6)
    assert len(scarce) >= 5 and len(set(scarce)) == len(scarce)
    shapes = {tuple(example["image"].shape) for example in drawn if example["image_id"] == 6}
    assert len(shapes) == len(scarce)


@pytest.mark.parametrize("sampler", DETECTRON2_SAMPLERS)
def test_detectron2s_other_samplers_still_work(dataset, sampler):
    name = dataset([[0]] * 6 + [[0, 1]])
    cfg = config(name, DATALOADER__SAMPLER_TRAIN=sampler)
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.9  # Detectron2's config does not have the key
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [(name, 2.0)]
    assert len(next(iter(build_train_loader(cfg)))) == 2


@pytest.mark.parametrize("keep_empty", [True, False])
def test_images_without_annotations(dataset, keep_empty):
    name = dataset([[0], [], [0, 1], []])
    cfg = config(name, DATALOADER__SAMPLER_TRAIN="RepeatFactorTrainingSampler")
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = not keep_empty
    drawn = {example["image_id"] for example in examples(build_train_loader(cfg), 40)}
    assert drawn == ({0, 1, 2, 3} if keep_empty else {0, 2})


@pytest.mark.parametrize("filter_empty", [True, False])
def test_dataset_without_any_annotation(dataset, filter_empty):
    name = dataset([[], []])
    cfg = config(name, DATALOADER__FILTER_EMPTY_ANNOTATIONS=filter_empty)
    with pytest.raises(ValueError, match=r"None of the 2 training images has an annotation"):
        build_train_loader(cfg)


def test_unknown_sampler_lists_ours_and_detectron2s():
    cfg = config("not_loaded_before_the_name_is_checked", DATALOADER__SAMPLER_TRAIN="Mystery")
    with pytest.raises(KeyError, match=r"'Mystery'.*ClassBalanced.*WeightedTrainingSampler"):
        build_train_loader(cfg)


def test_own_mapper(dataset):
    name = dataset([[0], [0, 1]])
    cfg = config(name, DATALOADER__ASPECT_RATIO_GROUPING=False)
    loader = build_train_loader(cfg, mapper=lambda record: record["image_id"])
    assert set(examples(loader, 10)) == {0, 1}


def stats(name, groups):
    return ClassStats(np.array([7, 1]), np.array([7, 1]), 7, NAMES, groups)


def test_copy_paste_by_config(dataset, monkeypatch):
    name = dataset([[0]] * 6 + [[0, 1]])
    monkeypatch.setattr("balms_det.data.build.build_class_stats", lambda cfg: stats(name, "fr"))
    cfg = config(
        name,
        DATALOADER__SAMPLER_TRAIN="ClassBalancedTrainingSampler",
        DATALOADER__ASPECT_RATIO_GROUPING=False,
        INPUT__COPY_PASTE__ENABLED=True,
        INPUT__COPY_PASTE__MIN_VISIBLE=0.0,
    )
    drawn = [e for e in examples(build_train_loader(cfg), 12) if e["image_id"] == 6]
    first = [e for e in drawn if e["repeat"] == 0]
    later = [e for e in drawn if e["repeat"] > 0]
    assert all((e["instances"].gt_classes == 1).sum() == 1 for e in first)
    assert any((e["instances"].gt_classes == 1).sum() > 1 for e in later)


def test_copy_paste_needs_bitmasks_and_known_groups(dataset, monkeypatch):
    name = dataset([[0], [0, 1]])
    monkeypatch.setattr("balms_det.data.build.build_class_stats", lambda cfg: stats(name, "fr"))
    cfg = config(name, INPUT__COPY_PASTE__ENABLED=True, INPUT__MASK_FORMAT="polygon")
    with pytest.raises(ValueError, match=r"INPUT\.MASK_FORMAT: bitmask"):
        build_train_loader(cfg)
    cfg = config(name, INPUT__COPY_PASTE__ENABLED=True, INPUT__COPY_PASTE__GROUPS=["rare"])
    with pytest.raises(ValueError, match=r"COPY_PASTE\.GROUPS"):
        build_train_loader(cfg)
    cfg = config(name, INPUT__COPY_PASTE__ENABLED=True, INPUT__COPY_PASTE__GROUPS=["c"])
    with pytest.raises(ValueError, match="no instance to paste"):
        build_train_loader(cfg)


class OwnSampler(torch.utils.data.Sampler):
    """A sampler that was written for Detectron2: it knows nothing but its own rank's stream."""

    def __init__(self, cfg, incidence):
        self.size = incidence.num_images

    def __iter__(self):
        return itertools.cycle(range(self.size - 1))


def test_a_users_own_sampler_goes_through_detectron2s_loader(dataset, monkeypatch):
    monkeypatch.setitem(SAMPLER_REGISTRY._obj_map, "OwnSampler", OwnSampler)
    name = dataset([[0], [0, 1], [0], [1]])
    loader = build_train_loader(config(name, DATALOADER__SAMPLER_TRAIN="OwnSampler"))
    assert not isinstance(loader, ResumableLoader)
    assert [example["image_id"] for example in examples(loader, 6)] == [0, 1, 2, 0, 1, 2]


class Backwards(RepeatFactorTrainingSampler):
    def __iter__(self):
        return itertools.cycle(range(len(self.repeat_factors) - 1, -1, -1))


class Halves(RepeatFactorTrainingSampler):
    def image_factors(self, incidence):
        return super().image_factors(incidence) / 2


@pytest.mark.parametrize("sampler, resumable", [(Backwards, False), (Halves, True)])
def test_a_subclass_is_iterated_as_it_says(dataset, monkeypatch, sampler, resumable):
    monkeypatch.setitem(SAMPLER_REGISTRY._obj_map, "Own", sampler)
    name = dataset([[0], [0, 1], [0], [1]])
    loader = build_train_loader(config(name, DATALOADER__SAMPLER_TRAIN="Own"))
    assert isinstance(loader, ResumableLoader) == resumable
    if not resumable:
        assert [example["image_id"] for example in examples(loader, 5)] == [3, 2, 1, 0, 3]


@pytest.mark.parametrize("sampler", sorted(key for key, _ in SAMPLER_REGISTRY))
def test_every_sampler_of_ours_resumes(dataset, sampler):
    def pictures(loader, count):
        return [(e["image_id"], e["image"]) for e in examples(loader, count)]

    cfg = config(dataset([[0]] * 6 + [[0, 1]]), DATALOADER__SAMPLER_TRAIN=sampler)
    straight = pictures(build_train_loader(cfg), 40)
    stopped, resumed = build_train_loader(cfg), build_train_loader(cfg)
    pictures(stopped, 26)
    resumed.load_state_dict(stopped.state_dict())
    for (image_id, image), (same_id, same) in zip(pictures(resumed, 14), straight[26:]):
        assert image_id == same_id and torch.equal(image, same)


def test_without_a_seed_the_ranks_agree_on_one(dataset):
    name = dataset([[0]] * 6 + [[0, 1]])
    one, two = (build_train_loader(config(name, SEED=-1)) for _ in range(2))
    assert one.dataset.seed >= 0 and one.dataset.seed != two.dataset.seed
    assert len(next(iter(one))) == 2
