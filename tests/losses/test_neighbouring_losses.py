"""Recall, Z, circle, ElasticFace, normalised softmax and Gumbel loss against their formulas."""

import math

import pytest
import torch
from torch.nn import functional as F

from balms_det.losses import CosineClassifier, build_box_loss
from balms_det.losses.core.binary_terms import binary_terms_per_roi
from balms_det.losses.gumbel import GumbelActivation

K = 3
DOUBLE = torch.float64


def _labels(*labels):
    return torch.tensor(labels)


def _cosines(scale):
    logits = torch.tensor([[0.9, 0.1, -0.4, 0.2], [0.3, 0.2, 0.8, -0.9]], dtype=DOUBLE)
    return (scale * logits).requires_grad_(), logits


def test_recall_weighs_by_the_share_of_misses():
    logits = torch.zeros(6, K + 1, dtype=DOUBLE)
    logits[range(6), [0, 1, 1, 1, K, K]] = 5.0
    labels = _labels(0, 0, 0, 1, K, K)
    loss = build_box_loss("RecallLoss", K)
    per_roi = loss.per_roi(logits, labels)
    assert loss.miss_rate.tolist() == pytest.approx([2 / 3, 1.0, 1.0, 1 / 2])
    expected = loss.miss_rate[labels] * F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(per_roi, expected)
    equation = build_box_loss("RecallLoss", K, min_misses=0.0)
    assert equation.per_roi(logits, labels)[3:].tolist() == [0, 0, 0]


def test_recall_over_batches():
    loss = build_box_loss("RecallLoss", K, momentum=0.75)
    hit = torch.tensor([[5.0, 0.0, 0.0, 0.0]] * 4)
    loss(hit, _labels(0, 0, 0, 0))
    assert loss.miss_rate.tolist() == pytest.approx([0.75 + 0.25 / 4, 1.0, 1.0, 1.0])


def test_z_loss_is_blind_to_shift_and_scale():
    logits = torch.randn(5, K + 1, dtype=DOUBLE)
    loss = build_box_loss("ZLoss", K, a=2.0, b=1.0)
    labels = _labels(0, 1, 2, K, 0)
    expected = loss.per_roi(logits, labels)
    torch.testing.assert_close(loss.per_roi(7 * logits - 3, labels), expected)
    torch.testing.assert_close(loss.scores(7 * logits - 3), loss.scores(logits))
    row = (logits[0] - logits[0].mean()) / logits[0].std(correction=0)
    own = math.log1p(math.exp(2.0 * (1.0 - row[0].item()))) / 2.0
    assert expected[0].item() == pytest.approx(own)


def test_circle_weighs_by_the_way_that_is_left():
    loss = build_box_loss("CircleLoss", K, margin=0.25, gamma=64.0)
    logits, cosine = _cosines(64.0)
    found = loss.per_roi(logits, _labels(0, 1))
    for row, label in enumerate((0, 1)):
        weighted = 64 * (cosine[row] + 0.25).clamp(min=0) * (cosine[row] - 0.25)
        own = cosine[row, label]
        weighted[label] = 64 * (1.25 - own) * (own - 0.75)
        expected = F.cross_entropy(weighted[None], _labels(label))
        torch.testing.assert_close(found[row], expected)
    (gradient,) = torch.autograd.grad(found[1], logits)
    # The weight of the label's pull is its way to 1 + m, as a constant.
    score = F.softmax(weighted, dim=0)[1]
    assert gradient[1, 1].item() == pytest.approx(((score - 1) * (1.25 - 0.2)).item())


@pytest.mark.parametrize("form", ["arc", "cos"])
def test_elastic_margins(form):
    loss = build_box_loss("ElasticFaceLoss", K, form=form, scale=64.0, margin=0.4, sigma=0.1)
    uniform = torch.tensor([0.5, 0.9], dtype=DOUBLE)
    loss.draw_uniform = lambda *shape, like: uniform.to(like)
    logits, cosine = _cosines(64.0)
    labels = _labels(0, 2)
    found = loss.per_roi(logits, labels)
    margins = 0.4 + 0.1 * torch.distributions.Normal(0.0, 1.0).icdf(uniform)
    moved = cosine.clone()
    for row, label in enumerate(labels.tolist()):
        own = cosine[row, label]
        if form == "arc":
            moved[row, label] = torch.cos(torch.acos(own) + margins[row])
        else:
            moved[row, label] = own - margins[row]
    torch.testing.assert_close(found, F.cross_entropy(64 * moved, labels, reduction="none"))


def test_background_and_no_margin_are_plain():
    logits, _ = _cosines(64.0)
    loss = build_box_loss("ElasticFaceLoss", K, form="cos")
    background = _labels(K, K)
    expected = loss.plain_per_roi(logits, background)
    torch.testing.assert_close(loss.per_roi(logits, background), expected)
    none = build_box_loss("ElasticFaceLoss", K, margin=0.0, sigma=0.0)
    torch.testing.assert_close(
        none.per_roi(logits, _labels(0, 2)), none.plain_per_roi(logits, _labels(0, 2))
    )


@pytest.mark.parametrize("name", ["NormalizedSoftmaxLoss", "CircleLoss", "ElasticFaceLoss"])
def test_classifier_is_a_cosine_of_the_losses_scale(name):
    loss = build_box_loss(name, K)
    classifier = loss.reset_classifier(torch.nn.Linear(5, K + 1))
    assert isinstance(classifier, CosineClassifier) and classifier.scale == loss.scale
    assert classifier.bias is None
    assert classifier(torch.randn(9, 5)).abs().max() <= loss.scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gumbel_terms_are_precise_at_both_ends(dtype):
    logits = torch.linspace(-4, 10, 57, dtype=dtype)[:, None].requires_grad_()
    rate = torch.exp(-logits.detach().double())
    for label, loss, slope in (
        (0, rate, -rate),
        (1, -torch.log(-torch.expm1(-rate)), rate / torch.expm1(rate)),
    ):
        labels = torch.full((57,), label)
        term = GumbelActivation(-4.0, 10.0, exact_gradient=True).term()
        found = binary_terms_per_roi(logits, labels, term)
        (gradient,) = torch.autograd.grad(found.sum(), logits)
        torch.testing.assert_close(found.double(), loss.squeeze(1), rtol=2e-6, atol=1e-7)
        torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("RecallLoss", {"momentum": 1.0}, "momentum must lie"),
        ("RecallLoss", {"min_misses": -1.0}, "min_misses"),
        ("ZLoss", {"a": 0.0}, "a must be positive"),
        ("CircleLoss", {"margin": 1.0}, "margin must lie"),
        ("CircleLoss", {"gamma": 0.0}, "scale must be positive"),
        ("ElasticFaceLoss", {"form": "sphere"}, "form must be"),
        ("ElasticFaceLoss", {"sigma": -0.1}, "sigma"),
    ],
)
def test_illegal_values(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_box_loss(name, K, **arguments)
