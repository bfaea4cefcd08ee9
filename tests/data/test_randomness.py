"""Seeds by purpose, and generators that are put back."""

import random

import numpy as np
import pytest
import torch

from balms_det.utils.randomness import derived_seed, local_randomness, seed_generators


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_derived_seeds_are_reproducible_and_distinct():
    def seeds():
        return [
            derived_seed(p, s, i) for p in ("draw", "step") for s in range(40) for i in range(40)
        ]

    assert seeds() == seeds()
    assert all(0 <= seed < 2**63 for seed in seeds())
    assert len(set(seeds())) == 2 * 40 * 40


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError):
        derived_seed("draw", -1)


def test_seed_generators():
    seed_generators(2**62 + 1)
    first = draw()
    seed_generators(2**62 + 1)
    assert draw() == first
    seed_generators(2**62 + 2)
    assert not set(draw()) & set(first)


def test_local_randomness_puts_the_generators_back_also_after_an_error():
    seed_generators(1)
    expected = draw()
    seed_generators(1)
    with local_randomness(7):
        inside = draw()
    with pytest.raises(KeyError), local_randomness(7):
        assert draw() == inside
        raise KeyError
    assert draw() == expected
