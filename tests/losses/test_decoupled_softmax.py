"""Losses of RoIs with several labels."""

import pytest
import torch
from torch.nn import functional as F

from balms_det.losses import build_box_loss
from balms_det.losses.decoupled_softmax import top_k_shift

K = 4
LOSSES = ["DecoupledSoftmaxLoss", "SoftTopKLoss"]


def _batch(rows=6):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, K + 1, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(0, K + 1, (rows,), generator=generator)


def test_one_label_is_cross_entropy():
    logits, labels = _batch()
    loss = build_box_loss("DecoupledSoftmaxLoss", K)
    expected = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(loss.per_roi(logits, labels), expected)


def test_each_label_competes_with_the_negatives_alone():
    logits, _ = _batch(rows=1)
    loss = build_box_loss("DecoupledSoftmaxLoss", K)
    loss.context = {"all_classes": torch.tensor([[True, False, True, False]])}
    found = loss.per_roi(logits, torch.tensor([2]))
    score = logits.exp()[0]
    negatives = score[1] + score[3] + score[K]
    expected = sum(-torch.log(score[p] / (score[p] + negatives)) for p in (0, 2))
    torch.testing.assert_close(found, expected.unsqueeze(0))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert (gradient[0, [0, 2]] < 0).all() and (gradient[0, [1, 3, K]] > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_background_has_no_other_label(name):
    logits, _ = _batch(rows=2)
    loss = build_box_loss(name, K)
    plain = loss.per_roi(logits, torch.full((2,), K))
    loss.context = {"all_classes": torch.ones(2, K, dtype=torch.bool)}
    torch.testing.assert_close(loss.per_roi(logits, torch.full((2,), K)), plain)


@pytest.mark.parametrize("name", LOSSES)
def test_every_class_at_once_is_finite(name):
    logits, _ = _batch(rows=2)
    loss = build_box_loss(name, K)
    loss.context = {"all_classes": torch.ones(2, K, dtype=torch.bool)}
    value = loss(logits, torch.tensor([0, 1]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("scale", [0.1, 3.0, 50.0])
@pytest.mark.parametrize("k", [1, 2, 7])
def test_shift_shares_out_k(scale, k):
    logits = scale * torch.randn(50, 12, dtype=torch.float64)
    logits[0] = 0.0
    logits[1] = -20 * scale
    logits[1, 3] = 20 * scale  # one far above: a plateau in the sum
    wanted = torch.full((50, 1), float(k), dtype=torch.float64)
    total = torch.sigmoid(logits + top_k_shift(logits, wanted)).sum(dim=1)
    torch.testing.assert_close(total, wanted.squeeze(1), rtol=1e-6, atol=0)


def test_gradient_of_the_shift_is_that_of_its_equation():
    logits, _ = _batch()
    wanted = torch.full((6, 1), 2.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: top_k_shift(z, wanted), logits)


def test_top_k_is_content_with_a_label_among_the_k_highest():
    logits = torch.tensor([[9.0, 9.0, -9.0, -9.0, -9.0]])
    label = torch.tensor([0])
    one, two = (build_box_loss("SoftTopKLoss", K, k=k)(logits, label) for k in (1, 2))
    assert one > 0.6 and two < 0.01


def test_k_must_leave_something_out():
    with pytest.raises(ValueError, match=r"k must lie in \[1, 4\], got 5"):
        build_box_loss("SoftTopKLoss", K, k=5)
