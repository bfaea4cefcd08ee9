"""Draws of the losses that draw: uniform, of any shape, the same for the same seed."""

import pytest
import torch

from balms_det.losses.core.functional import coarse_uniform, lowest_keys


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coarse_draws_are_uniform_and_inside(dtype):
    torch.manual_seed(0)
    draws = coarse_uniform((300, 401), torch.zeros(0, dtype=dtype))
    assert draws.shape == (300, 401) and draws.dtype == dtype
    assert 0 < draws.min() < 1e-4 and 1 - 1e-4 < draws.max() < 1
    share = torch.histc(draws, bins=16, min=0, max=1) / draws.numel()
    torch.testing.assert_close(share, torch.full_like(share, 1 / 16), rtol=0.03, atol=0)
    # The four that share a word of the generator know nothing of each other.
    columns = draws.flatten().view(-1, 4).double()
    correlation = torch.corrcoef(columns.t()) - torch.eye(4)
    assert correlation.abs().max() < 0.02


def test_coarse_draws_follow_the_seed():
    first, second = [], []
    for draws in (first, second):
        torch.manual_seed(3)
        draws += [coarse_uniform((2, 3), torch.zeros(1)) for _ in range(2)]
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])
    assert coarse_uniform((0, 3), torch.zeros(1)).shape == (0, 3)


def test_lowest_keys_takes_so_many_of_a_column():
    keys = torch.tensor([[0.3, 0.1], [0.1, 0.2], [0.2, 0.3]])
    eligible = torch.tensor([[True, True], [False, True], [True, True]])
    taken = lowest_keys(keys, eligible, torch.tensor([1, 9]))
    assert taken.tolist() == [[False, True], [False, True], [True, True]]
