"""Counts of every kind of dataset, and what they say about its classes."""

from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog

from balms_det import add_balms_config
from balms_det.data.class_stats import ClassStats, build_class_stats


def test_shipped_lvis_v1_equals_detectron2s_metadata():
    stats = ClassStats.from_dataset("lvis_v1_train")
    metadata = MetadataCatalog.get("lvis_v1_train")
    assert stats.image_count.tolist() == [c["image_count"] for c in metadata.class_image_count]
    assert list(stats.names) == metadata.thing_classes
    assert stats.num_images == 100170
    assert stats.instance_count.sum() == 1270141
    groups = stats.frequency_groups()
    assert [groups.count(group) for group in "rcf"] == [337, 461, 405]


def test_shipped_lvis_v05_has_detectron2s_classes():
    stats = ClassStats.from_dataset("lvis_v0.5_train")
    assert list(stats.names) == MetadataCatalog.get("lvis_v0.5_train").thing_classes
    assert (stats.num_images, stats.num_classes) == (56740, 1230)


def test_build_from_shipped_sets_federated_metadata():
    cfg = get_cfg()
    add_balms_config(cfg)
    cfg.DATASETS.TRAIN = ("lvis_v0.5_train",)
    stats = build_class_stats(cfg)
    counts = MetadataCatalog.get("lvis_v0.5_train").class_image_count
    assert [c["image_count"] for c in counts] == stats.image_count.tolist()
