"""The cosine classifier as a drop-in for a linear one."""

import pytest
import torch
from torch.nn import functional as F

from balms_det.losses import CosineClassifier


def test_logits_are_scaled_cosines():
    torch.manual_seed(0)
    classifier = CosineClassifier(5, 3, scale=7.0)
    features = torch.randn(4, 5)
    cosine = F.cosine_similarity(features[:, None], classifier.weight[None], dim=2)
    torch.testing.assert_close(classifier(features), 7.0 * cosine, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(classifier(9 * features), classifier(features), rtol=1e-4, atol=1e-5)


def test_it_takes_over_a_linear_layer():
    linear = torch.nn.Linear(5, 3).double()
    state = torch.get_rng_state()
    classifier = CosineClassifier.from_linear(linear, scale=2.0, bias=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(classifier.weight, linear.weight)
    assert classifier.bias.dtype == torch.float64 and not classifier.bias.any()
    assert classifier.state_dict().keys() == linear.state_dict().keys()
    assert CosineClassifier.from_linear(linear).bias is None


def test_a_feature_of_zeros_has_a_finite_gradient():
    classifier = CosineClassifier(5, 3)
    features = torch.zeros(2, 5, requires_grad=True)
    classifier(features).sum().backward()
    assert features.grad.isfinite().all() and classifier.weight.grad.isfinite().all()


def test_scale_must_be_positive():
    with pytest.raises(ValueError, match="scale must be positive"):
        CosineClassifier(5, 3, scale=0.0)
