"""Running sums and means in one process; several ranks are in test_two_ranks.py."""

import torch

from balms_det.losses.core.state import class_sums, moving_average_, sum_over_ranks


def test_class_sums_count_and_add_by_label():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    sums = class_sums(torch.tensor([0, 2, 2, 3]), 4, values, -values)
    assert sums.dtype == torch.float64
    assert sums.tolist() == [[1, 0, 2, 1], [1, 0, 6, 8], [-1, 0, -6, -8]]


def test_class_sums_of_an_empty_batch_are_zero():
    empty = torch.zeros(0, dtype=torch.long)
    assert class_sums(empty, 3, torch.zeros(0)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_sum_over_ranks_without_distribution_changes_nothing():
    value = torch.tensor([1.0, 2.0])
    assert sum_over_ranks(value) is value and value.tolist() == [1, 2]


def test_moving_average_moves_only_what_was_seen():
    average = torch.tensor([1.0, 2.0], dtype=torch.float64)
    moving_average_(average, torch.tensor([3.0, torch.nan]), 0.75, torch.tensor([True, False]))
    assert average.tolist() == [1.5, 2.0]
