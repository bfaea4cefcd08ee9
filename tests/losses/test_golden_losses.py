"""Losses, gradients and scores as the authors' own code computed them."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from balms_det.losses import balanced_softmax_offsets, build_box_loss, shifted_cross_entropy

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"
SIGMOID_FILES = {
    "sigmoid_baseline": "SigmoidLoss",
    "balms_balanced_softmax_sigmoid": "BalancedSigmoidLoss",
}


def _read(name):
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    golden["cases"] = golden["steps"] + golden.get("extra_cases", [])
    golden["stats"] = SimpleNamespace(**golden["class_stats"])
    return golden


def _check(case, loss_of, dtype):
    logits = torch.tensor(case["logits"], dtype=dtype, requires_grad=True)
    loss = loss_of(logits, torch.tensor(case["gt_classes"]))
    loss.backward()
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(case["loss"], rel=1e-6)
    expected = torch.tensor(case["grad_logits"], dtype=torch.float64)
    tolerance = 1e-6 if dtype is torch.float64 else 1e-5
    floor = 0.0 if dtype is torch.float64 else 1e-8
    torch.testing.assert_close(logits.grad.double(), expected, rtol=tolerance, atol=floor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "loss_name"), SIGMOID_FILES.items())
def test_sigmoid_forms_match_the_authors_code(name, loss_name, dtype):
    golden = _read(name)
    loss = build_box_loss(loss_name, len(golden["stats"].image_count), golden["stats"])
    for case in golden["cases"]:
        _check(case, loss, dtype)
    inference = golden["inference"]
    scores = loss.scores(torch.tensor(inference["logits"], dtype=dtype))
    expected = torch.tensor(inference["scores"], dtype=torch.float64)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_softmax_form_without_background_matches_the_authors_code(dtype):
    golden = _read("balanced_softmax_cls")
    offsets = balanced_softmax_offsets(torch.tensor(golden["stats"].image_count)).to(dtype)
    for case in golden["cases"]:
        _check(case, lambda z, y: shifted_cross_entropy(z, offsets, y).mean(), dtype)
        per_row = shifted_cross_entropy(
            torch.tensor(case["logits"], dtype=dtype), offsets, torch.tensor(case["gt_classes"])
        )
        expected = torch.tensor(case["loss_none"], dtype=torch.float64)
        torch.testing.assert_close(per_row.double(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_balanced_softmax_loss_is_the_authors_on_foreground(dtype):
    """With the background logit at -inf the loss has the authors' K classes left."""
    golden = _read("balanced_softmax_cls")
    num_classes = len(golden["stats"].image_count)
    loss = build_box_loss("BalancedSoftmaxLoss", num_classes, golden["stats"])
    case = golden["cases"][0]
    background = torch.full((len(case["logits"]), 1), -1e4, dtype=dtype)
    _check(case, lambda z, y: loss(torch.cat([z, background], dim=1), y), dtype)
    inference = golden["inference"]
    logits = torch.tensor(inference["logits"], dtype=dtype)
    scores = loss.scores(torch.cat([logits, background], dim=1))[:, :-1]
    expected = torch.tensor(inference["scores"], dtype=torch.float64)
    torch.testing.assert_close(scores.double(), expected, rtol=2e-6, atol=0)


def test_plain_federated_loss_is_detectron2s_sigmoid_loss():
    """All K classes of K + 1 outputs, the last of which is not trained."""
    golden = _read("d2_sigmoid_ce")
    loss = build_box_loss("FederatedLoss", golden["background_index"], golden["stats"])
    for case in golden["cases"]:
        _check(case, loss.plain_loss, torch.float64)
