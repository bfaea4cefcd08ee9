"""The sigmoid loss against PyTorch's own, and where its sign trick could go wrong."""

import math

import pytest
import torch
from torch.nn import functional as F

from balms_det.losses import binary_cross_entropy_per_roi, build_box_loss
from balms_det.losses.core.functional import softplus_values

K = 5


def _reference(logits, labels):
    target = F.one_hot(labels, K + 1)[:, :K].to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=1)


@pytest.mark.parametrize("scale", [1.0, 10.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_binary_cross_entropy(scale, dtype):
    torch.manual_seed(0)
    logits = (scale * torch.randn(200, K, dtype=dtype)).requires_grad_()
    labels = torch.randint(0, K + 1, (200,))
    # In float64: PyTorch's float32 loses up to 4e-5 of a row, relatively, at these scales.
    ours, theirs = binary_cross_entropy_per_roi(logits, labels), _reference(logits.double(), labels)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-12)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    (expected,) = torch.autograd.grad(theirs.sum(), logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


def test_confident_and_right_costs_what_is_left():
    """``softplus(z) - z`` in float32 would give 0 here."""
    logits = torch.full((1, K), -30.0)
    logits[0, 2] = 18.0
    loss = binary_cross_entropy_per_roi(logits, torch.tensor([2]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-18.0)), rel=1e-5)


@pytest.mark.parametrize("rows", [1, 4, 9])
@pytest.mark.parametrize("shape", ["none", "outputs", "function"])
def test_factors_shifts_and_blocks(monkeypatch, rows, shape):
    """Any number of blocks gives the weighted sum of the terms, and its gradient."""
    monkeypatch.setattr("balms_det.losses.core.functional.CPU_ELEMENTS", 4 * K)
    torch.manual_seed(0)
    logits = torch.randn(K, rows, dtype=torch.float64).t().requires_grad_()  # not contiguous
    labels = torch.randint(0, K + 1, (rows,))
    dense = torch.rand(rows if shape == "function" else 1, K, dtype=torch.float64)
    of_labels, shift = torch.rand(rows).double(), torch.randn(rows, K).double()
    target = F.one_hot(labels, K + 1)[:, :K].double()
    if shape == "none":
        ours, factor, shift = binary_cross_entropy_per_roi(logits, labels), 1.0, 0.0
    else:
        factors = dense[0] if shape == "outputs" else lambda block, rows: dense[rows]
        ours = binary_cross_entropy_per_roi(
            logits, labels, factors, of_labels, lambda block, rows: shift[rows]
        )
        factor = torch.where(target == 1, of_labels.unsqueeze(1), dense)
    terms = F.binary_cross_entropy_with_logits(logits + shift, target, reduction="none")
    theirs = (terms * factor).sum(dim=1)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.rand(rows, dtype=torch.float64)
    for _ in range(2):  # backward leaves what it saved as it was
        (gradient,) = torch.autograd.grad((upstream * ours).sum(), logits, retain_graph=True)
        (expected,) = torch.autograd.grad((upstream * theirs).sum(), logits, retain_graph=True)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("which", ["factors", "label_factors"])
def test_factors_are_constants(which):
    factors = {which: torch.ones(K, requires_grad=True)}
    with pytest.raises(ValueError, match="detach"):
        binary_cross_entropy_per_roi(torch.zeros(K, K), torch.zeros(K, dtype=int), **factors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_is_as_exact_as_its_dtype(dtype):
    values = torch.cat([torch.linspace(-60, 60, 1201), torch.tensor([1e4, -1e4, 0.0])]).to(dtype)
    exact = torch.log1p(torch.exp(-values.double().abs())) + values.double().clamp(min=0)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(softplus_values(values).double(), exact, rtol=4 * eps, atol=0)


def test_softplus_keeps_what_is_not_finite():
    values = torch.tensor([[math.inf, -math.inf, math.nan]])
    assert softplus_values(values)[0, :2].tolist() == [math.inf, 0.0]
    assert softplus_values(values)[0, 2].isnan()


def test_bias_starts_at_the_prior():
    linear = torch.nn.Linear(3, K)
    loss = build_box_loss("SigmoidLoss", K, prior_prob=0.01)
    scores = loss.scores(loss.reset_classifier(linear)(torch.zeros(1, 3)))
    assert scores[0, :K].tolist() == pytest.approx([0.01] * K)
    assert scores[0, K] == 0


def test_background_is_predicted_where_no_class_reaches_one_half():
    loss = build_box_loss("SigmoidLoss", 2)
    logits = torch.tensor([[-1.0, -0.1], [0.1, -3.0], [-2.0, 0.5]])
    assert loss.accuracy_scores(logits).argmax(dim=1).tolist() == [2, 0, 1]
