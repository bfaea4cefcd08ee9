"""What every registered loss must do, whichever paper it is from."""

from types import SimpleNamespace

import pytest
import torch
from loss_fixtures import ALL_LOSSES, STATS, K, R
from loss_fixtures import make_batch as _batch
from loss_fixtures import make_loss as _loss

from balms_det.losses import build_box_loss

pytestmark = pytest.mark.parametrize("name", ALL_LOSSES)


def test_shapes_and_dtypes(name):
    loss = _loss(name)
    logits, labels = _batch(loss)
    assert loss.per_roi(logits, labels).shape == (R,)
    assert loss.plain_per_roi(logits, labels).shape == (R,)
    for value in (_loss(name)(logits, labels), loss.plain_loss(logits, labels)):
        assert value.shape == () and value.dtype == torch.float64 and value > 0
    assert loss.accuracy_scores(logits).shape == (R, K + 1)


def test_forward_is_the_mean_of_per_roi(name):
    logits, labels = _batch(_loss(name))
    torch.manual_seed(0)
    mean = _loss(name)(logits, labels)
    torch.manual_seed(0)
    torch.testing.assert_close(mean, _loss(name).per_roi(logits, labels).mean())


def test_weights_scale_rois(name):
    logits, labels = _batch(_loss(name))
    weights = torch.linspace(0, 2, R, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    weighted = _loss(name)(logits, labels, weights)
    torch.manual_seed(0)
    per_roi = _loss(name).per_roi(logits, labels)
    torch.testing.assert_close(weighted, (weights * per_roi).sum() / R)
    (gradient,) = torch.autograd.grad(weighted, weights)
    torch.testing.assert_close(gradient, per_roi.detach() / R)


@pytest.mark.parametrize("weights", [None, torch.zeros(0)])
def test_empty_batch_keeps_the_graph(name, weights):
    loss = _loss(name)
    logits, labels = _batch(loss, rows=0)
    for value in (loss(logits, labels, weights), loss.plain_loss(logits, labels)):
        (gradient,) = torch.autograd.grad(value, logits)
        assert value == 0 and gradient.shape == logits.shape
    assert loss.scores(logits).shape == (0, K + 1)
    assert loss.eval().per_roi(*_batch(loss)).shape == (R,)  # nothing of it is left


@pytest.mark.parametrize("label", [0, K - 1, K])
def test_one_label_only(name, label):
    loss = _loss(name)
    logits, labels = _batch(loss, labels=torch.full((R,), label))
    value = loss(logits, labels)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


def test_gradient_is_the_derivative(name):
    loss = _loss(name)
    if loss.has_detached_factors:
        pytest.skip("its gradient leaves out factors on purpose")
    logits, labels = _batch(loss, rows=5)
    weights = torch.rand(5, dtype=torch.float64)
    before = {key: value.clone() for key, value in loss.state_dict().items()}

    def value(z):
        loss.load_state_dict(before)
        torch.manual_seed(0)
        return loss(z, labels, weights)

    assert torch.autograd.gradcheck(value, logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, dtype):
    logits, labels = _batch(_loss(name), dtype=dtype)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = _loss(name)(logits, labels)
        scores = _loss(name).scores(logits)
    torch.manual_seed(0)
    expected = _loss(name)(logits.float(), labels)
    assert value.dtype == scores.dtype == torch.float32
    assert torch.equal(value, expected)
    value.backward()
    assert logits.grad.dtype == dtype and logits.grad.isfinite().all()


def test_logits_are_not_edited(name):
    loss = _loss(name)
    logits, labels = _batch(loss)
    before = logits.detach().clone()
    loss(logits, labels).backward()
    loss.plain_loss(logits, labels)
    loss.scores(logits)
    loss.accuracy_scores(logits)
    assert torch.equal(logits.detach(), before)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_scores_are_probabilities(name, scale):
    loss = _loss(name)
    logits, _ = _batch(loss, dtype=torch.float32)
    scores = loss.scores(logits * scale)
    assert scores.shape == (R, K + 1) and scores.dtype == torch.float32
    assert scores.isfinite().all() and (scores >= 0).all() and (scores <= 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_logits_stay_finite(name, dtype):
    loss = _loss(name)
    logits, labels = _batch(loss, dtype=dtype)
    (gradient,) = torch.autograd.grad(loss(logits * 1e3, labels), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("images", [[0] * K, [0, 0, 5, 5, 5, 5, 1000], [1000] * K])
def test_absent_and_omnipresent_classes_stay_finite(name, images):
    stats = SimpleNamespace(image_count=images, instance_count=images, num_images=1000)
    loss = _loss(name, stats=stats)
    logits, labels = _batch(loss)
    value = loss(logits, labels)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in loss.buffers())


def test_one_class(name):
    stats = SimpleNamespace(image_count=[10], instance_count=[12], num_images=20)
    loss = _loss(name, num_classes=1, stats=stats)
    logits, labels = _batch(loss, rows=6)
    for _ in range(2):  # the second time with the state of the first
        value = loss(logits, labels)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite() and gradient.isfinite().all()
    scores = loss.scores(logits)
    assert scores.shape == (6, 2) and scores.isfinite().all()


def test_classifier_that_the_loss_resets_gives_its_logits(name):
    loss = _loss(name)
    linear = torch.nn.Linear(4, loss.num_logits)
    classifier = loss.reset_classifier(linear)
    logits = classifier(torch.randn(3, 4))
    assert loss(logits, torch.tensor([0, 1, K])).isfinite()


def test_labels_and_shapes_are_checked(name):
    loss = _loss(name)
    logits, labels = _batch(loss)
    for bad in (-1, K + 1):
        with pytest.raises(ValueError, match=str(bad)):
            loss(logits, torch.full_like(labels, bad))
    with pytest.raises(ValueError, match="logits of shape"):
        loss(logits[:, :-1], labels)
    with pytest.raises(ValueError, match="integer labels"):
        loss(logits, labels[:-1])
    with pytest.raises(ValueError, match="integer labels"):
        loss(logits, labels.double())
    with pytest.raises(ValueError, match="weights of shape"):
        loss(logits, labels, torch.ones(R, 1))


def test_checkpoint_carries_no_class_priors(name):
    """Priors follow from the training set's counts; running state alone is saved."""
    loss = _loss(name)
    other = SimpleNamespace(image_count=[5] * K, instance_count=[9] * K, num_images=50)
    fresh = _loss(name, stats=other)
    priors = dict(fresh.named_buffers())
    fresh.load_state_dict(loss.state_dict())
    saved = loss.state_dict().keys()
    assert all(torch.equal(b, priors[k]) for k, b in fresh.named_buffers() if k not in saved)


def test_statistics_of_another_number_of_classes_are_refused(name):
    with pytest.raises(ValueError, match=r"image_count has 7 classes but num_classes is 8"):
        build_box_loss(name, K + 1, STATS)
