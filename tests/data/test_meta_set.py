"""The meta set: its dataset, batch size, sampler and seed, and what is missing in it."""

import itertools

import numpy as np
import pytest
import torch
from data_fixtures import annotation, record, small_config
from detectron2.data import DatasetCatalog, MetadataCatalog

from balms_det.data.build import build_meta_loader, build_train_loader
from balms_det.data.samplers import ClassBalancedTrainingSampler

NAMES = ["often", "seldom", "once"]
BOXES = [(4, 4, 20, 20), (22, 6, 44, 30), (2, 22, 18, 38)]


@pytest.fixture
def register(tmp_path):
    """A function that registers images with the given classes and returns the dataset's name."""
    made = []

    def register(classes_of, first_id=0, names=NAMES):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3))
        records = [
            record(
                tmp_path / f"{i}.png",
                pixels,
                [annotation(c, BOXES[c]) for c in classes],
                image_id=i,
            )
            for i, classes in enumerate(classes_of, start=first_id)
        ]
        made.append(f"meta_{tmp_path.name}_{len(made)}")
        DatasetCatalog.register(made[-1], lambda: records)
        MetadataCatalog.get(made[-1]).set(thing_classes=names)
        return made[-1]

    yield register
    for name in made:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.fixture
def train_name(register):
    return register([[0]] * 12 + [[0, 1]] * 3 + [[2]])


def config(train_name, **keys):
    return small_config(
        DATASETS__TRAIN=(train_name,), DATALOADER__SAMPLER_TRAIN="TrainingSampler", **keys
    )


def images(loader, count):
    examples = itertools.chain.from_iterable(loader)
    return [(e["image_id"], e["image"]) for e in itertools.islice(examples, count)]


def test_default_is_class_balanced_over_the_training_set(train_name):
    cfg = config(train_name)
    loader = build_meta_loader(cfg)
    assert isinstance(loader.sampler, ClassBalancedTrainingSampler)
    assert len(next(loader)) == cfg.SOLVER.IMS_PER_BATCH == 2
    drawn = [image_id for image_id, _ in images(loader, 300)]
    # One of the 16 images holds the class "once", with one instance; its factor is 16, not 1.
    assert drawn.count(15) > 3 * 300 / 16
    assert cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler"  # the training loader's is kept


def test_batch_size_and_sampler(train_name):
    loader = build_meta_loader(config(train_name, META__IMS_PER_BATCH=5))
    assert len(next(loader)) == 5
    plain = build_meta_loader(config(train_name, META__SAMPLER="TrainingSampler"))
    assert len({image_id for image_id, _ in images(plain, 16)}) >= 14


def test_its_randomness_is_its_own(train_name):
    cfg = config(train_name, META__SAMPLER="TrainingSampler")
    train, meta = images(build_train_loader(cfg), 16), images(build_meta_loader(cfg), 16)
    assert [i for i, _ in train] != [i for i, _ in meta]
    again = images(build_meta_loader(cfg), 16)
    assert all(i == j and torch.equal(a, b) for (i, a), (j, b) in zip(meta, again))
    assert build_meta_loader(config(train_name, SEED=-1)).dataset.seed >= 0


def test_it_resumes(train_name):
    cfg = config(train_name)
    straight = images(build_meta_loader(cfg), 20)
    stopped, resumed = build_meta_loader(cfg), build_meta_loader(cfg)
    images(stopped, 12)
    resumed.load_state_dict(stopped.state_dict())
    for (i, a), (j, b) in zip(images(resumed, 8), straight[12:]):
        assert i == j and torch.equal(a, b)


def test_held_out_dataset(register, train_name, caplog):
    held_out = register([[0], [1], [2]], first_id=100)
    loader = build_meta_loader(config(train_name, META__DATASETS=(held_out,)))
    assert {image_id for image_id, _ in images(loader, 20)} == {100, 101, 102}
    assert "have no image there" not in caplog.text


def test_classes_that_the_held_out_dataset_lacks_are_named(register, train_name, caplog):
    held_out = register([[0]] * 3, first_id=100)
    loader = build_meta_loader(config(train_name, META__DATASETS=(held_out,)))
    assert "2 of the training set's classes have no image there (seldom, once)" in caplog.text
    assert len(next(loader)) == 2


def test_held_out_dataset_with_other_classes(register, train_name):
    held_out = register([[0]], first_id=100, names=["often", "once", "seldom"])
    with pytest.raises(ValueError, match=r"META\.DATASETS .*class 1 is 'seldom'.*'once'"):
        build_meta_loader(config(train_name, META__DATASETS=(held_out,)))


def test_held_out_dataset_that_does_not_exist(train_name):
    with pytest.raises(KeyError, match="'nowhere' is not registered"):
        build_meta_loader(config(train_name, META__DATASETS=("nowhere",)))


def test_proposals_are_for_the_training_set(register, train_name):
    cfg = config(train_name, META__DATASETS=(train_name,), MODEL__LOAD_PROPOSALS=True)
    with pytest.raises(ValueError, match=r"META\.DATASETS does not go with MODEL\.LOAD_PROPOSALS"):
        build_meta_loader(cfg)


def test_unknown_sampler(train_name):
    with pytest.raises(KeyError, match=r"META\.SAMPLER is 'Mystery'.*ClassBalancedTrainingSampler"):
        build_meta_loader(config(train_name, META__SAMPLER="Mystery"))


def test_batch_that_the_ranks_cannot_share(train_name, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"batch of 3 images .* META\.IMS_PER_BATCH"):
        build_meta_loader(config(train_name, META__IMS_PER_BATCH=3))


def test_what_the_sampler_knows_reaches_the_batch(train_name, caplog):
    cfg = config(train_name)
    cfg.DATALOADER.SAMPLER_TRAIN = "MetaTrainingSampler"
    with caplog.at_level("INFO"):
        loader = build_train_loader(cfg)
    assert "MetaTrainingSampler:\nrarest class is" in caplog.text
    loader.sampler.set_rates(torch.tensor([0.25, 0.5, 0.75]))
    rates = {0: 0.25, 1: 0.5, 2: 0.75}
    for batch in itertools.islice(loader, 10):
        for example in batch:
            assert example["meta_rate"] == rates[example["meta_class"]]
            assert example["meta_class"] in example["instances"].gt_classes
