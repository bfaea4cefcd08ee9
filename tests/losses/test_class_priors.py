"""Frequencies, bins and groups of classes."""

from types import SimpleNamespace

import pytest
import torch

from balms_det.losses import class_counts, count_bins, frequency_groups, image_frequency
from balms_det.losses.core.priors import COMMON, FREQUENT, RARE

STATS = SimpleNamespace(
    image_count=[0, 10, 11, 100, 101], instance_count=[0, 12, 9, 300, 200], num_images=202
)


def test_counts_and_their_totals():
    images, total = class_counts(STATS, "image")
    assert images.tolist() == STATS.image_count and total == 202
    instances, total = class_counts(STATS, "instance")
    assert instances.tolist() == STATS.instance_count and total == 521


def test_frequency_is_a_share_of_images():
    assert image_frequency(STATS)[[0, 4]].tolist() == [0, 0.5]
    nothing = SimpleNamespace(image_count=[0], instance_count=[0], num_images=0)
    assert image_frequency(nothing).tolist() == [0]


def test_groups_have_the_borders_of_lvis():
    assert frequency_groups(STATS).tolist() == [RARE, RARE, COMMON, COMMON, FREQUENT]
    assert frequency_groups(STATS, 9, 10).tolist() == [RARE, COMMON] + [FREQUENT] * 3


def test_a_count_on_an_edge_is_in_the_bin_above():
    assert count_bins(torch.tensor([0.0, 9, 10, 99, 100]), (10, 100)).tolist() == [0, 0, 1, 1, 2]


def test_borders_must_increase():
    with pytest.raises(ValueError, match="common_max must be above"):
        frequency_groups(STATS, 100, 10)
    with pytest.raises(ValueError, match="must increase"):
        count_bins(torch.zeros(2), (10, 10))
