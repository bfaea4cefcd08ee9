"""Class statistics: their checks, what they derive, and where they come from."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.detection_utils import get_fed_loss_cls_weights
from hypothesis import given
from hypothesis import strategies as st

from balms_det.data import ClassStats, build_class_stats
from balms_det.data.class_stats import sum_class_stats
from balms_det.data.datasets import register_file, resolve_num_classes
from tests.data.conftest import coco_content, lvis_content


def test_derived_figures_with_an_absent_class():
    stats = ClassStats([0, 10, 11, 100, 101], [0, 20, 11, 100, 269], 200, list("abcde"))
    assert stats.num_classes == 5
    assert stats.absent.tolist() == [0]
    assert stats.frequency_groups() == ["r", "r", "c", "c", "f"]
    assert stats.frequency_groups(rare_max=0, common_max=50) == ["r", "c", "c", "f", "f"]
    np.testing.assert_allclose(stats.image_frequency, [0, 0.05, 0.055, 0.5, 0.505])
    np.testing.assert_allclose(stats.instance_frequency.sum(), 1)
    assert stats.image_count.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        stats.image_count[0] = 1


def test_own_labels_win_over_default_limits():
    stats = ClassStats([5, 500], [5, 500], 1000, frequency=["f", "r"])
    assert stats.frequency_groups() == ["f", "r"]
    assert stats.frequency_groups(rare_max=3) == ["c", "f"]


def test_equality():
    one = ClassStats([1, 2], [1, 2], 5, ["a", "b"])
    assert one == ClassStats(np.array([1, 2]), np.array([1.0, 2.0]), 5, ("a", "b"))
    assert one != ClassStats([1, 2], [1, 3], 5, ["a", "b"])
    assert one != ClassStats([1, 2], [1, 2], 5, ["a", "c"])
    assert one != "something else"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1, 2], [1], 5), "lengths"),
        (([1, 2], [1, 2], 5, ["a"]), "lengths"),
        (([], [], 5), "at least one"),
        (([[1]], [[1]], 5), "one-dimensional"),
        (([-1], [1], 5), "not negative"),
        (([1.5], [2], 5), "whole"),
        (([0], [0], 0), "num_images"),
        (([1, 6], [6, 6], 5, ["a", "b"]), r"class 1 \(b\) is in 6 images"),
        (([2], [1], 5), "class 0 is in 2 images"),
        (([2], [2], 5, ["a"], ["x"]), "'r', 'c' or 'f'"),
    ],
)
def test_impossible_counts_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ClassStats(*arguments)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20), st.floats(0, 1))
def test_repeat_factors_are_finite_and_fall_with_frequency(counts, thresh):
    stats = ClassStats(counts, counts, 1000)
    for factors in (stats.repeat_factors(thresh), stats.repeat_factors(thresh, True)):
        assert np.isfinite(factors).all() and (factors >= 1).all()
        assert (factors[stats.absent] == 1).all()
        present = np.argsort(counts)[len(stats.absent) :]
        assert (np.diff(factors[present]) <= 1e-12).all()


def test_repeat_factor_of_a_known_class():
    stats = ClassStats([25], [100], 10000)
    assert stats.repeat_factors(0.01)[0] == pytest.approx(2.0)  # sqrt(0.01 / 0.0025)


def test_shipped_lvis_v1_equals_detectron2s_metadata():
    stats = ClassStats.from_dataset("lvis_v1_train")
    metadata = MetadataCatalog.get("lvis_v1_train")
    by_id = {c["id"]: c["image_count"] for c in metadata.class_image_count}
    assert stats.image_count.tolist() == [by_id[i + 1] for i in range(1203)]
    assert list(stats.names) == metadata.thing_classes
    assert (stats.num_images, stats.instance_count.sum()) == (100170, 1270141)
    groups = stats.frequency_groups()
    assert [groups.count(group) for group in "rcf"] == [337, 461, 405]


def test_shipped_lvis_v05_has_detectron2s_classes():
    stats = ClassStats.from_dataset("lvis_v0.5_train")
    assert list(stats.names) == MetadataCatalog.get("lvis_v0.5_train").thing_classes
    assert (stats.num_images, stats.num_classes) == (56740, 1230)
    assert stats.frequency_groups() == stats.frequency_groups(10, 100)


def test_shipped_counts_feed_detectron2s_federated_loss(cfg):
    cfg.DATASETS.TRAIN = ("lvis_v0.5_train",)
    stats = build_class_stats(cfg)
    weights = get_fed_loss_cls_weights(cfg.DATASETS.TRAIN, 0.5)
    np.testing.assert_allclose(weights.numpy(), stats.image_count**0.5, rtol=1e-6)


def test_file_dataset_and_dicts_agree(write_dataset, cfg):
    json_file, root = write_dataset(lvis_content())
    register_file("stats_lvis", json_file, root)
    from_file = ClassStats.from_file(json_file)
    assert ClassStats.from_dataset("stats_lvis") == from_file
    dicts = DatasetCatalog.get("stats_lvis")
    from_dicts = ClassStats.from_dicts(dicts, 3, from_file.names)
    assert from_dicts.image_count.tolist() == from_file.image_count.tolist() == [1, 2, 0]
    assert from_dicts.instance_count.tolist() == from_file.instance_count.tolist() == [1, 3, 0]


def test_dataset_registered_in_python_is_counted_over_its_dicts(cfg):
    records = [
        {"image_id": 0, "annotations": [{"category_id": 1}, {"category_id": 1}]},
        {"image_id": 1},
    ]
    DatasetCatalog.register("stats_python", lambda: records)
    with pytest.raises(ValueError, match=r"stats_python.*thing_classes"):
        ClassStats.from_dataset("stats_python")
    MetadataCatalog.get("stats_python").thing_classes = ["a", "b"]
    assert ClassStats.from_dataset("stats_python") == ClassStats([0, 1], [0, 2], 2, ["a", "b"])
    cfg.DATASETS.TRAIN = ("stats_python",)
    build_class_stats(cfg)
    assert get_fed_loss_cls_weights(cfg.DATASETS.TRAIN).tolist() == [0, 1]


def test_dataset_registered_with_detectron2_is_counted_over_its_json(write_dataset, cfg):
    json_file, root = write_dataset(coco_content())
    register_coco_instances("stats_d2", {}, json_file, root)
    cfg.DATASETS.TRAIN = ("stats_d2",)
    assert resolve_num_classes(cfg).MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert build_class_stats(cfg) == ClassStats.from_file(json_file)
    assert len(DatasetCatalog.get("stats_d2")) == 3  # its own loader still works afterwards


def test_class_id_outside_the_list_names_the_image():
    records = [{"file_name": "a.jpg", "annotations": [{"category_id": 3}]}]
    with pytest.raises(ValueError, match=r"a\.jpg.*\[3\].*\[0, 2\]"):
        ClassStats.from_dicts(records, 3)


def test_unknown_dataset_says_how_to_register():
    with pytest.raises(KeyError, match=r"no_such_set.*DATASETS.FILES"):
        ClassStats.from_dataset("no_such_set")


def test_several_training_sets_are_summed_and_class_counts_win(write_dataset, cfg):
    json_file, root = write_dataset(coco_content())
    content = coco_content()
    del content["annotations"][0]
    other_file, _ = write_dataset(content, "other.json")
    register_file("stats_a", json_file, root)
    register_file("stats_b", other_file, root)
    cfg.DATASETS.TRAIN = ("stats_a", "stats_b")
    stats = build_class_stats(cfg)
    assert stats.image_count.tolist() == [2, 4, 0]
    assert stats.instance_count.tolist() == [2, 5, 0]
    assert stats.num_images == 6
    assert get_fed_loss_cls_weights(cfg.DATASETS.TRAIN).tolist() == [2, 4, 0]
    cfg.DATASETS.CLASS_COUNTS = other_file
    assert build_class_stats(cfg).instance_count.tolist() == [1, 2, 0]
    assert get_fed_loss_cls_weights(cfg.DATASETS.TRAIN).tolist() == [1, 2, 0]
    cfg.DATASETS.CLASS_COUNTS = "stats_a"
    assert build_class_stats(cfg).instance_count.tolist() == [1, 3, 0]


def test_counts_with_other_classes_than_the_training_set(write_dataset, cfg):
    register_file("stats_a", *write_dataset(coco_content()))
    cfg.DATASETS.TRAIN = ("stats_a",)
    cfg.DATASETS.CLASS_COUNTS = "lvis_v1_train"
    with pytest.raises(ValueError, match=r"1203 classes.*'stats_a' has 3"):
        build_class_stats(cfg)


def test_class_lists_that_differ():
    one = ClassStats([1, 1], [1, 1], 3, ["a", "b"])
    with pytest.raises(ValueError, match=r"dataset 1 alone has 'c'; dataset 0 alone has 'b'"):
        sum_class_stats([one, ClassStats([1, 1], [1, 1], 3, ["a", "c"])])
    with pytest.raises(ValueError, match="1 classes and dataset 0 has 2"):
        sum_class_stats([one, ClassStats([1], [1], 3)])


@pytest.mark.parametrize("crowds_only", [False, True])
def test_nothing_annotated_is_an_error(write_dataset, cfg, crowds_only):
    content = coco_content()
    content["annotations"] = content["annotations"][4:] if crowds_only else []
    register_file("stats_empty", *write_dataset(content))
    cfg.DATASETS.TRAIN = ("stats_empty",)
    with pytest.raises(ValueError, match="stats_empty: no annotation at all"):
        build_class_stats(cfg)


def test_no_dataset_at_all(cfg):
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN"):
        build_class_stats(cfg)


def test_stats_of_a_file_do_not_depend_on_key_order(write_dataset):
    content = coco_content()
    path, _ = write_dataset(json.dumps(dict(reversed(content.items()))))
    assert ClassStats.from_file(path) == ClassStats(
        [1, 2, 0], [1, 3, 0], 3, ["cat", "dog", "crowd"]
    )
