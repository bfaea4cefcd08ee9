"""Identities of Balanced Softmax in both its forms."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from balms_det.losses import (
    balanced_sigmoid_offsets,
    balanced_softmax_offsets,
    build_box_loss,
    shifted_cross_entropy,
)

K, R = 6, 20
STATS = SimpleNamespace(
    image_count=[2, 4, 8, 16, 32, 64], instance_count=[3, 9, 9, 30, 70, 400], num_images=100
)
EQUAL = SimpleNamespace(image_count=[7] * K, instance_count=[9] * K, num_images=14)


def _batch(columns, dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(R, columns, dtype=dtype), torch.randint(0, K + 1, (R,))


@pytest.mark.parametrize("counts", ["image", "instance"])
def test_equal_counts_are_exactly_cross_entropy(counts):
    logits, labels = _batch(K + 1)
    loss = build_box_loss("BalancedSoftmaxLoss", K, EQUAL, counts=counts)
    expected = F.cross_entropy(logits, labels, reduction="none")
    assert torch.equal(loss.per_roi(logits, labels), expected)


def test_half_frequency_is_exactly_binary_cross_entropy():
    logits, labels = _batch(K)
    loss = build_box_loss("BalancedSigmoidLoss", K, EQUAL)
    plain = build_box_loss("SigmoidLoss", K)
    assert torch.equal(loss.per_roi(logits, labels), plain.per_roi(logits, labels))


@pytest.mark.parametrize(
    ("name", "plain"),
    [("BalancedSoftmaxLoss", "SoftmaxLoss"), ("BalancedSigmoidLoss", "SigmoidLoss")],
)
def test_tau_zero_and_plain_loss_are_the_plain_loss(name, plain):
    baseline = build_box_loss(plain, K)
    logits, labels = _batch(baseline.num_logits)
    expected = baseline(logits, labels)
    torch.testing.assert_close(build_box_loss(name, K, STATS, tau=0.0)(logits, labels), expected)
    torch.testing.assert_close(build_box_loss(name, K, STATS).plain_loss(logits, labels), expected)
    assert torch.equal(build_box_loss(name, K, STATS).scores(logits), baseline.scores(logits))


def test_offsets_scale_with_tau_and_ignore_the_scale_of_counts():
    count = torch.tensor(STATS.image_count)
    offsets = balanced_softmax_offsets(count)
    torch.testing.assert_close(balanced_softmax_offsets(10 * count, tau=0.5), 0.5 * offsets)
    assert offsets.diff().tolist() == pytest.approx([math.log(2)] * (K - 1))


def test_kept_background_keeps_its_rate():
    """Were test classes equally likely, the mean of their shifts would not move background."""
    loss = build_box_loss("BalancedSoftmaxLoss", K, STATS)
    shift = loss.offsets.exp()
    assert shift[-1] == 1
    assert shift[:-1].mean().item() == pytest.approx(1)


def test_background_as_a_class_has_its_share_of_examples():
    loss = build_box_loss("BalancedSoftmaxLoss", K, STATS, background="class", background_ratio=3.0)
    shift = loss.offsets.exp()
    assert (shift[-1] / shift[:-1].sum()).item() == pytest.approx(3.0)


def test_absent_class_has_the_lowest_finite_offset():
    softmax = balanced_softmax_offsets(torch.tensor([0, 1, 50]))
    sigmoid = balanced_sigmoid_offsets(torch.tensor([0, 1, 99, 100]), total=100)
    for offsets in (softmax, sigmoid):
        assert offsets.isfinite().all() and (offsets.diff() > 0).all()


def test_instance_counts_are_used():
    loss = build_box_loss("BalancedSigmoidLoss", K, STATS, counts="instance")
    share = torch.tensor(STATS.instance_count, dtype=torch.float64) / sum(STATS.instance_count)
    torch.testing.assert_close(loss.offsets, torch.log(share / (1 - share)))


@pytest.mark.parametrize("rows", [1, 3, 8, 9])
def test_shifted_cross_entropy_in_blocks(monkeypatch, rows):
    """Any number of blocks gives cross-entropy of the shifted logits, and its gradient."""
    monkeypatch.setattr("balms_det.losses.core.functional.CPU_ELEMENTS", 4 * K)
    torch.manual_seed(0)
    logits = torch.randn(K, rows, dtype=torch.float64).t().requires_grad_()  # not contiguous
    offsets, labels = torch.randn(K, dtype=torch.float64), torch.randint(0, K, (rows,))
    weights = torch.rand(rows, dtype=torch.float64)
    ours = shifted_cross_entropy(logits, offsets, labels)
    theirs = F.cross_entropy(logits + offsets, labels, reduction="none")
    torch.testing.assert_close(ours, theirs)
    for _ in range(2):  # backward leaves what it saved as it was
        (gradient,) = torch.autograd.grad((weights * ours).sum(), logits, retain_graph=True)
        (expected,) = torch.autograd.grad((weights * theirs).sum(), logits, retain_graph=True)
        torch.testing.assert_close(gradient, expected)


def test_shifted_cross_entropy_says_what_it_does_not_differentiate():
    logits, offsets = torch.zeros(1, 2, requires_grad=True), torch.zeros(2)
    loss = shifted_cross_entropy(logits, offsets, torch.tensor([0])).sum()
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(ValueError, match="detach"):
        shifted_cross_entropy(logits, offsets.requires_grad_(), torch.tensor([0]))
