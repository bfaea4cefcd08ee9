"""What the learners do to the RoIs of a batch."""

import pytest
import torch

from balms_det.meta import MetaReweighter, MetaSampler, build_meta_learner
from balms_det.meta.learners import gumbel_draw

K = 3
LABELS = torch.tensor([0, 0, 1, 2, 3, 3, 3, 0, 3])
FOREGROUND = LABELS < K


def learner_with(cls, theta):
    learner = cls(K)
    with torch.no_grad():
        learner.theta.copy_(torch.tensor(theta))
    return learner


@pytest.mark.parametrize("cls", [MetaReweighter, MetaSampler])
def test_background_and_the_share_of_foreground_stay(cls):
    omega = learner_with(cls, [-2.0, 0.0, 3.0])(LABELS)
    assert (omega[~FOREGROUND] == 1).all()
    torch.testing.assert_close(omega[FOREGROUND].mean(), torch.tensor(1.0))


@pytest.mark.parametrize("cls", [MetaReweighter, MetaSampler])
@pytest.mark.parametrize("labels", [torch.full((5,), K), torch.empty(0, dtype=torch.long)])
def test_a_batch_without_foreground_moves_nothing(cls, labels):
    learner = learner_with(cls, [-2.0, 0.0, 3.0])
    omega = learner(labels)
    assert omega.tolist() == [1.0] * len(labels)
    omega.sum().backward()
    assert learner.theta.grad.tolist() == [0.0] * K


def test_reweighter_weighs_by_class():
    omega = learner_with(MetaReweighter, [0.0, 1.0, -1.0])(LABELS)
    weight = torch.tensor([0.0, 1.0, -1.0]).sigmoid()
    expected = weight[LABELS[FOREGROUND]]
    torch.testing.assert_close(omega[FOREGROUND], expected / expected.mean())


def test_reweighter_starts_without_effect_and_follows_theta_at_once():
    learner = MetaReweighter(K)
    before = learner(LABELS)
    assert (before == 1).all()
    with torch.no_grad():
        learner.theta[0] = 4.0
    after = learner.after_update(LABELS, before.detach())
    assert not after.requires_grad and (after[LABELS == 0] > 1).all()


def test_reweighter_survives_weights_of_0():
    learner = learner_with(MetaReweighter, [-200.0, -200.0, -200.0])
    omega = learner(LABELS)
    omega.sum().backward()
    assert omega.isfinite().all() and learner.theta.grad.isfinite().all()


def test_sampler_draws_by_rate():
    learner = learner_with(MetaSampler, [-3.0, 0.0, 3.0])
    draws = torch.stack([learner(LABELS).detach() for _ in range(4000)]).mean(dim=0)
    rate = learner.rates()[LABELS[FOREGROUND]]
    expected = rate / rate.sum() * FOREGROUND.sum()
    torch.testing.assert_close(draws[FOREGROUND], expected, rtol=0.05, atol=0.02)


def test_sampler_gradient_raises_the_rate_of_what_helps():
    learner = MetaSampler(K)
    # Drawing class 1 more often lowers the meta loss.
    gradient = torch.where(LABELS == 1, -1.0, 0.0)
    learner(LABELS).backward(gradient)
    assert learner.theta.grad[1] < 0 <= learner.theta.grad[0]


def test_sampler_draws_again_what_it_drew():
    first, second = MetaSampler(K, seed=5), MetaSampler(K, seed=5)
    first(LABELS)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(LABELS), second(LABELS))
    assert any(not torch.equal(first(LABELS), MetaSampler(K, seed=6)(LABELS)) for _ in range(5))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_gumbel_draw_has_the_gradient_of_the_softmax(temperature):
    log_rates = torch.tensor([0.1, -0.4, 0.7], requires_grad=True)
    noise = torch.tensor([[0.0, 2.0, 0.0], [0.3, 0.0, 0.0]])
    drawn, retained = gumbel_draw(log_rates, noise, temperature)
    assert drawn.tolist() == [1, 2] and retained.tolist() == pytest.approx([1.0, 1.0])
    (gradient,) = torch.autograd.grad(retained.sum(), log_rates)
    soft = ((log_rates + noise) / temperature).softmax(dim=1)
    (expected,) = torch.autograd.grad(soft[0, 1] + soft[1, 2], log_rates)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("argument", "value"), [("temperature", 0.0), ("draws", 0)])
def test_illegal_values_of_the_sampler(argument, value):
    with pytest.raises(ValueError, match=argument):
        MetaSampler(K, **{argument: value})


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="MetaReweighter, MetaSampler"):
        build_meta_learner("MetaLerner", K)


def test_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="sed"):
        build_meta_learner("MetaSampler", K, sed=3)


def test_no_classes_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        MetaReweighter(0)
