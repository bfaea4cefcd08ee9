"""Every registered loss on a GPU: the numbers of the CPU, no waiting, half precision, its state."""

import io
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.cuda.gpu import DEVICE, needs_cuda, no_waiting
from tests.losses.loss_fixtures import ALL_LOSSES, STATS, K, fix_draws, make_batch, make_loss

pytestmark = [needs_cuda, pytest.mark.parametrize("name", ALL_LOSSES)]

# Relative to each number, and to the largest of a tensor.
TOLERANCE = {torch.float32: (1e-4, 1e-6), torch.float64: (1e-9, 1e-12)}
LVIS_K = 1203
LVIS_STATS = SimpleNamespace(
    image_count=[1 + 50_000 // (c + 1) ** 2 for c in range(LVIS_K)],
    instance_count=[1 + 200_000 // (c + 1) ** 2 for c in range(LVIS_K)],
    num_images=100_000,
)


def late(name, *args):
    """A loss at the end of its training, where schedules have everything on."""
    loss = make_loss(name, *args)
    if hasattr(loss, "set_progress"):
        loss.set_progress(1.0)
    return loss


def assert_close(there, here, dtype=torch.float64):
    relative, of_largest = TOLERANCE[dtype]
    largest = float(here.detach().abs().max()) if here.numel() else 0.0
    assert there.device.type == DEVICE.type and there.dtype == here.dtype
    torch.testing.assert_close(there.cpu(), here, rtol=relative, atol=of_largest * largest)


def step(loss, logits, labels, weights):
    """What a training step and inference compute, and the state behind it."""
    logits = logits.detach().requires_grad_()
    value = loss(logits, labels, weights)
    plain = loss.plain_loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
    (of_plain,) = torch.autograd.grad(plain, logits)
    scores = loss.scores(logits).detach(), loss.accuracy_scores(logits).detach()
    numbers = value.detach(), gradient, plain.detach(), of_plain, *scores
    return numbers, {key: state.clone() for key, state in loss.state_dict().items()}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [(24, K, STATS), (512, LVIS_K, LVIS_STATS)], ids=["small", "lvis"])
def test_steps_are_those_of_the_cpu(name, size, dtype):
    rows, classes, stats = size
    here, there = late(name, classes, stats), late(name, classes, stats).to(DEVICE)
    for loss in (here, there):
        fix_draws(loss)
    logits, labels = make_batch(here, rows, dtype)
    for scale in (1.0, -0.5, 2.0):  # the second and third from running state
        for weights in (None, torch.linspace(0, 2, rows)):
            given = [scale * logits, labels, weights]
            ours, states = step(here, *given)
            theirs, moved = step(there, *(g if g is None else g.to(DEVICE) for g in given))
            for one, other in zip(theirs, ours):
                assert_close(one, other, dtype)
            for key in states:
                assert_close(moved[key], states[key], dtype)


def test_a_step_does_not_make_the_host_wait(name):
    loss = late(name).to(DEVICE)
    logits, labels = (tensor.to(DEVICE) for tensor in make_batch(loss, dtype=torch.float32))
    weights = torch.rand(len(labels), device=DEVICE)

    def everything():
        step(loss, logits, labels, weights)
        step(loss, logits, labels, None)
        loss.row_gradients(logits, labels)
        loss(logits[:0], labels[:0])

    everything()
    with no_waiting():
        everything()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(name, dtype):
    torch.manual_seed(0)
    loss = late(name)
    classifier = loss.reset_classifier(nn.Linear(16, loss.num_logits)).to(DEVICE)
    fix_draws(loss.to(DEVICE))
    features = torch.randn(64, 16, device=DEVICE)
    labels = torch.randint(0, K + 1, (64,), device=DEVICE)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    with torch.autocast(DEVICE.type, dtype=dtype):
        logits = classifier(features)
        value, scores = loss(logits, labels), loss.scores(logits)
    value.backward()
    assert value.dtype == scores.dtype == torch.float32
    assert value.isfinite() and scores.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in classifier.parameters())
    loss.load_state_dict(before)
    assert torch.equal(value, loss(logits.detach().float(), labels))


def test_state_follows_to_the_gpu_and_back(name):
    there = late(name).to(DEVICE)
    assert all(buffer.device.type == DEVICE.type for buffer in there.buffers())
    logits, labels = make_batch(there)
    there(logits.to(DEVICE), labels.to(DEVICE))
    file = io.BytesIO()
    torch.save(there.state_dict(), file)
    file.seek(0)
    here = late(name)
    here.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    for loss in (here, there):
        fix_draws(loss)
    assert_close(there(-logits.to(DEVICE), labels.to(DEVICE)), here(-logits, labels))
