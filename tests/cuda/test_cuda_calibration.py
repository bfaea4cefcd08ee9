"""Every calibration on a GPU: the scores of the CPU, no waiting, half precision."""

import pytest
import torch
from torch import nn

from tests.cuda.gpu import DEVICE, needs_cuda, no_waiting
from tests.modeling.test_calibration_contract import (
    COLUMNS,
    NAMES,
    TO_SCORES,
    D,
    R,
    _apply,
    _build,
)

pytestmark = [
    needs_cuda,
    pytest.mark.parametrize("family", TO_SCORES),
    pytest.mark.parametrize("name", NAMES),
]


def _classifier(family):
    torch.manual_seed(0)
    linear = nn.Linear(D, COLUMNS[family], dtype=torch.float64)
    return linear, linear(3 * torch.randn(R, D, dtype=torch.float64)).detach()


def test_scores_are_those_of_the_cpu(family, name):
    linear, logits = _classifier(family)
    here = _apply(_build(name, family, 0.5), logits, linear)
    there = _build(name, family, 0.5).to(DEVICE)
    logits, linear = logits.to(DEVICE), linear.to(DEVICE)
    found = _apply(there, logits, linear)
    torch.testing.assert_close(found.cpu(), here, rtol=1e-9, atol=1e-12)
    with no_waiting():
        _apply(there, logits, linear)


def test_baked_classifier_is_that_of_the_cpu(family, name):
    if (name, family) == ("FRACAL", "sigmoid"):
        pytest.skip("it is no affine map")
    here, _ = _classifier(family)
    there, _ = _classifier(family)
    _build(name, family, 0.5).bake(here)
    _build(name, family, 0.5).to(DEVICE).bake(there.to(DEVICE))
    for one, other in zip(there.parameters(), here.parameters()):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(family, name, dtype):
    linear, logits = _classifier(family)
    linear, logits = linear.float().to(DEVICE), logits.to(DEVICE, dtype)
    calibration = _build(name, family, 0.5).to(DEVICE)
    with torch.autocast(DEVICE.type, dtype=dtype):
        half = _apply(calibration, logits, linear)
    full = _apply(calibration, logits.float(), linear)
    assert half.dtype == torch.float32 and half.isfinite().all()
    torch.testing.assert_close(half, full)
