"""Fast inference as it goes on a GPU, where the number of calls counts, on the CPU."""

import pytest

from balms_det.modeling import fast_inference as suppression_blocks
from tests.modeling import test_fast_inference as fast
from tests.modeling.test_fast_inference import routes  # noqa: F401


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The number of calls counts, as on a GPU."""
    monkeypatch.setattr(suppression_blocks, "on_cpu", lambda tensor: False)
    monkeypatch.setattr(suppression_blocks, "CALLS", 8)


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_equals_detectron2_on_random_cases(first, as_on_a_gpu):
    for seed in range(first, first + fast.CASES):
        image, limits = fast._random_case(seed)
        fast.assert_same([image], limits)


def test_few_calls_are_made_on_a_gpu(as_on_a_gpu, monkeypatch, routes):  # noqa: F811
    sizes = fast._blocks(monkeypatch)
    boxes, scores, shape = fast._many(rows=300)
    scores[:, :5] += 1  # a few classes have the best 1,500 candidates: one block
    fast.assert_same([(boxes, scores, shape)], (0.0, 0.5, 100))
    assert sizes[0] >= 1500 and routes == ["best"]
    routes.clear()
    boxes, scores, shape = fast._many(rows=300, classes=15)  # few calls for all
    fast.assert_same([(boxes, scores, shape)], (0.0, 0.5, 100))
    assert routes == ["all"]
