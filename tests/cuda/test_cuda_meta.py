"""The meta step on a GPU: that of the CPU, and how often the host waits for it."""

import pytest
import torch
from torch import nn

from balms_det.meta import MetaReweighter, MetaSampler, MetaStep, RoIBatch, Stage
from tests.cuda.gpu import DEVICE, count_waits, needs_cuda, no_waiting
from tests.losses.loss_fixtures import ALL_LOSSES, K, fix_draws, make_loss

pytestmark = needs_cuda

D, R = 8, 40
LEARNERS = [MetaReweighter, MetaSampler]


class FixedNoise(MetaSampler):
    """The Meta Sampler with the CPU's noise: the generators of two devices draw differently."""

    def gumbel_noise(self, log_rates):
        generator = torch.Generator().manual_seed(self._batches_drawn)
        self._batches_drawn += 1
        shape = self.draws * len(log_rates), len(log_rates)
        noise = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
        return noise.log_().neg_().to(log_rates)


class Problem:
    """A classifier with its loss, optimiser, batches and meta step; drawn on the CPU."""

    def __init__(self, loss_name, learner, device, dtype=torch.float64, fixed=True):
        torch.manual_seed(0)
        loss = make_loss(loss_name)
        classifier = loss.reset_classifier(nn.Linear(D, loss.num_logits))
        self.loss, self.classifier = loss.to(device), classifier.to(device, dtype)
        if dtype == torch.float64:
            self.loss.double()
        if fixed:
            fix_draws(self.loss)
        parameters = self.classifier.parameters()
        self.optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)
        self.features = [torch.randn(R, D, dtype=torch.float64).to(device, dtype) for _ in "tm"]
        self.labels = [torch.randint(0, K + 1, (R,)).to(device) for _ in "tm"]
        self.meta = MetaStep(learner(K).to(device, dtype), lr=0.05)

    def step(self):
        """A whole step; what it computes."""
        batches = [
            RoIBatch(features, self.classifier(features), labels)
            for features, labels in zip(self.features, self.labels)
        ]
        stage = Stage(self.classifier, self.loss, *batches, loss_weight=1.7)
        (weighted,), meta_loss = self.meta([stage], self.optimizer)
        gradient = self.meta.learner.theta.grad.clone()
        self.optimizer.zero_grad()
        stage.train.logits.backward(weighted.grad_logits)
        self.optimizer.step()
        return weighted.value, weighted.grad_logits, meta_loss, gradient


@pytest.mark.parametrize("learner", [MetaReweighter, FixedNoise])
@pytest.mark.parametrize("loss_name", ALL_LOSSES)
def test_steps_are_those_of_the_cpu(loss_name, learner):
    here, there = (Problem(loss_name, learner, device) for device in ("cpu", DEVICE))
    for _ in range(3):
        for ours, theirs in zip(here.step(), there.step()):
            largest = float(ours.abs().max())
            torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-7, atol=1e-8 * largest)
    theta = here.meta.learner.theta.detach()
    torch.testing.assert_close(there.meta.learner.theta.detach().cpu(), theta, rtol=1e-5, atol=1e-6)
    for one, other in zip(there.classifier.parameters(), here.classifier.parameters()):
        torch.testing.assert_close(one.detach().cpu(), other.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("loss_name", ["BalancedSoftmaxLoss", "BalancedSigmoidLoss", "SeesawLoss"])
def test_float32_gradient_of_the_learner(loss_name):
    here, there = (Problem(loss_name, MetaReweighter, d, torch.float32) for d in ("cpu", DEVICE))
    for ours, theirs in zip(here.step(), there.step()):
        largest = float(ours.abs().max())
        torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.parametrize("loss_name", ALL_LOSSES)
def test_the_reweighter_does_not_make_the_host_wait(loss_name):
    problem = Problem(loss_name, MetaReweighter, DEVICE, torch.float32, fixed=False)
    problem.step()
    with no_waiting():
        problem.step()


def test_the_sampler_makes_the_host_wait_once():
    problem = Problem("BalancedSoftmaxLoss", MetaSampler, DEVICE, torch.float32, fixed=False)
    problem.step()
    with count_waits() as waits:
        problem.step()
    assert len(waits) == 1, waits


@pytest.mark.parametrize("learner", LEARNERS)
def test_state_goes_to_the_cpu_and_back(learner, tmp_path):
    there = Problem("EQLv2Loss", learner, DEVICE, fixed=False)
    there.step()
    torch.save(there.meta.state_dict(), tmp_path / "meta.pth")
    saved = torch.load(tmp_path / "meta.pth", map_location="cpu", weights_only=True)
    here = MetaStep(learner(K).double())
    here.load_state_dict(saved)
    again = MetaStep(learner(K).double().to(DEVICE))
    again.load_state_dict(here.state_dict())
    for meta in (there.meta, again):
        meta.learner.theta.grad = torch.linspace(-1, 1, K, dtype=torch.float64, device=DEVICE)
        meta.adam.step()
    assert torch.equal(there.meta.learner.theta, again.learner.theta)
    labels = there.labels[0]
    assert torch.equal(there.meta.learner(labels), again.learner(labels))
