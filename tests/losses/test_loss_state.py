"""When the running state of every registered loss moves, and that it comes back from a file."""

import io

import pytest
import torch
from loss_fixtures import ALL_LOSSES, K, fix_draws, make_batch, make_loss

from tests.versions import needs_torch

pytestmark = pytest.mark.parametrize("name", ALL_LOSSES)


def _state(loss):
    return {key: value.clone() for key, value in loss.state_dict().items()}


def _equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_state_stands_still_outside_of_training(name):
    loss = make_loss(name)
    logits, labels = make_batch(loss)
    loss(logits, labels)
    before = _state(loss)
    loss.scores(logits)
    loss.accuracy_scores(logits)
    loss.plain_loss(logits, labels)
    loss.eval()
    loss(logits, labels)
    loss(logits[:0], labels[:0])
    assert _equal(_state(loss), before)


def test_state_moves_once_a_call(name):
    """Through forward, weighted or not, as through ``per_roi``."""
    states = []
    for call in (
        lambda loss, z, y: loss(z, y),
        lambda loss, z, y: loss(z, y, torch.ones(len(z))),
        lambda loss, z, y: loss.per_roi(z, y),
    ):
        loss = make_loss(name)
        fix_draws(loss)
        call(loss, *make_batch(loss))
        states.append(_state(loss))
    assert _equal(states[0], states[1]) and _equal(states[0], states[2])
    if loss.state_dict():
        assert not _equal(states[0], _state(make_loss(name)))


def test_state_has_no_graph(name):
    loss = make_loss(name)
    logits, labels = make_batch(loss)
    loss(logits, labels)
    assert not any(buffer.requires_grad for buffer in loss.buffers())


def test_training_goes_on_from_a_file_as_if_nothing_had_been(name):
    loss, resumed = make_loss(name), make_loss(name)
    logits, labels = make_batch(loss)
    loss(logits, labels)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for one in (loss, resumed):
        fix_draws(one)
    assert torch.equal(loss(-logits, labels), resumed(-logits, labels))
    assert _equal(_state(loss), _state(resumed))


@needs_torch(2, 1, "log_softmax has no derivative on the meta device")
def test_no_value_is_read_back_and_none_stays_on_the_cpu(name):
    """A tensor on the meta device has no value: reading one, as ``.item()`` would, is an error."""
    loss = make_loss(name).to("meta")
    logits = torch.zeros(5, loss.num_logits, device="meta", requires_grad=True)
    labels = torch.zeros(5, dtype=torch.long, device="meta")
    (gradient,) = torch.autograd.grad(loss.per_roi(logits, labels).sum(), logits)
    assert gradient.shape == logits.shape
    assert loss.plain_per_roi(logits, labels).shape == (5,)
    assert loss.scores(logits).shape == (5, K + 1)
