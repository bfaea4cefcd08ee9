"""The authors' meta gradients, computed with second-order autograd, from ours in closed form."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from balms_det.losses import build_box_loss
from balms_det.meta import MetaReweighter, MetaStep, RoIBatch, Stage, hypergradient
from balms_det.meta.learners import gumbel_draw, inverse_frequency_theta

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def assert_equal(actual, expected):
    torch.testing.assert_close(actual, tensor(expected), rtol=1e-6, atol=1e-12)


def classifier_and_sgd(state, values):
    weight = tensor(state["weight"])
    classifier = nn.Linear(weight.shape[1], weight.shape[0]).double()
    with torch.no_grad():
        classifier.weight.copy_(weight)
        classifier.bias.copy_(tensor(state["bias"]))
    options = {key: values[key] for key in ("lr", "momentum", "weight_decay")}
    sgd = torch.optim.SGD(classifier.parameters(), **options)
    for name in ("weight", "bias"):
        buffer = tensor(state[f"momentum_{name}"])
        sgd.state[getattr(classifier, name)]["momentum_buffer"] = buffer
    return classifier, sgd


def roi_batch(classifier, features, gt_classes):
    features = tensor(features)
    return RoIBatch(features, classifier(features), torch.tensor(gt_classes))


def restore(meta, state):
    with torch.no_grad():
        meta.learner.theta.copy_(tensor(state["theta"][0]))
    meta.adam.state[meta.learner.theta] = {
        "step": torch.tensor(float(state["adam_step"])),
        "exp_avg": tensor(state["adam_exp_avg"][0]),
        "exp_avg_sq": tensor(state["adam_exp_avg_sq"][0]),
    }


def assert_state(classifier, sgd, state):
    assert_equal(classifier.weight.detach(), state["weight"])
    assert_equal(classifier.bias.detach(), state["bias"])
    assert_equal(sgd.state[classifier.weight]["momentum_buffer"], state["momentum_weight"])
    assert_equal(sgd.state[classifier.bias]["momentum_buffer"], state["momentum_bias"])


@pytest.mark.parametrize(
    ("name", "meta_loss"), [("plain", "paper"), ("reference_shifted", "reference")]
)
def test_meta_reweighter(name, meta_loss):
    data = golden(f"meta_reweighter_hypergrad_{name}")
    values = data["hyperparameters"]
    stats = SimpleNamespace(**data["class_stats"])
    loss = build_box_loss("BalancedSigmoidLoss", len(stats.image_count), stats).double()
    learner = MetaReweighter(loss.num_classes).double()
    adam = {"lr": values["meta_lr"], "betas": values["adam_betas"], "eps": values["adam_eps"]}
    meta = MetaStep(learner, meta_loss=meta_loss, **adam)
    for step in data["steps"]:
        before = step["state_before"]
        classifier, sgd = classifier_and_sgd(before, values)
        restore(meta, before)
        train = roi_batch(classifier, step["train_features"], step["train_gt_classes"])
        batches = train, roi_batch(classifier, step["meta_features"], step["meta_gt_classes"])
        (weighted,), value = meta([Stage(classifier, loss, *batches)], sgd)
        assert_equal(value, step["meta_loss"])
        assert_equal(learner.theta.grad, step["grad_theta"][0])
        assert_equal(learner.theta.detach(), step["theta_after_adam"][0])
        assert_equal(weighted.value, step["loss"])
        sgd.zero_grad()
        train.logits.backward(weighted.grad_logits)
        sgd.step()
        assert_state(classifier, sgd, step["state_after"])
        adam = meta.adam.state[learner.theta]
        assert_equal(adam["exp_avg"], step["state_after"]["adam_exp_avg"][0])
        assert_equal(adam["exp_avg_sq"], step["state_after"]["adam_exp_avg_sq"][0])
        assert int(adam["step"]) == step["state_after"]["adam_step"]


def test_balms_loss_is_the_weighted_loss():
    data = golden("balms_loss")
    stats = SimpleNamespace(**data["class_stats"])
    loss = build_box_loss("BalancedSigmoidLoss", len(stats.image_count), stats).double()
    learner = MetaReweighter(loss.num_classes).double()
    for case in [*data["steps"], *data["extra_cases"]]:
        logits, gt_classes = tensor(case["logits"]), torch.tensor(case["gt_classes"])
        with torch.no_grad():
            learner.theta.copy_(tensor(case["theta"][0]))
        logits.requires_grad_()
        value = loss(logits, gt_classes, weights=learner(gt_classes))
        grad_logits, grad_theta = torch.autograd.grad(value, [logits, learner.theta])
        assert_equal(value.detach(), case["loss"])
        assert_equal(grad_logits, case["grad_logits"])
        assert_equal(grad_theta, case["grad_theta"][0])
        plain = loss.plain_loss(logits.detach(), gt_classes)
        assert_equal(plain, case["loss_sigmoid_plain"])
        assert_equal(loss(logits.detach(), gt_classes), case["loss_sigmoid_reference"])


class SoftmaxWithoutBackground(nn.Module):
    """The classification code's loss: no background, logits shifted by log counts."""

    def __init__(self, counts):
        super().__init__()
        self.shift = torch.log(tensor(counts))

    def row_gradients(self, logits, labels):
        logits = logits.detach().requires_grad_()
        losses = nn.functional.cross_entropy(logits + self.shift, labels, reduction="none")
        return losses.detach(), torch.autograd.grad(losses.sum(), logits)[0]

    def plain_loss(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels)


def test_meta_sampler():
    data = golden("meta_sampler")
    values, points = data["hyperparameters"], data["dataset"]
    labels = torch.tensor(points["labels"])
    loss = SoftmaxWithoutBackground(points["img_num_per_cls"])
    theta = nn.Parameter(tensor(data["theta_init"][0]))
    start = inverse_frequency_theta(torch.tensor(values["counts"]), values["init_pow"])
    assert_equal(start, data["theta_init"][0])
    adam = torch.optim.Adam(
        [theta], lr=values["meta_lr"], betas=values["adam_betas"], eps=values["adam_eps"]
    )
    for step in data["steps"]:
        before = step["state_before"]
        classifier, sgd = classifier_and_sgd(before, values)
        assert_equal(theta.detach(), before["theta"][0])
        log_rates = nn.functional.logsigmoid(theta)[labels]
        noise = tensor(step["gumbel_noise"])
        drawn, retained = gumbel_draw(log_rates, noise, values["gumbel_tau"])
        assert drawn.tolist() == step["sampled_indices"]
        assert labels[drawn].tolist() == step["sampled_labels"]
        given = (retained * tensor(step["given_loss_vector"])).mean()
        assert_equal(given.detach(), step["forward_loss_value"])
        (through,) = torch.autograd.grad(given, theta, retain_graph=True)
        assert_equal(through, step["straight_through_grad_theta"][0])
        features = [points["features"][i] for i in drawn.tolist()]
        train = roi_batch(classifier, features, labels[drawn].tolist())
        meta = roi_batch(classifier, step["meta_features"], step["meta_labels"])
        losses, gradients = loss.row_gradients(train.logits, train.gt_classes)
        assert_equal((losses * retained.detach()).mean(), step["inner_loss"])
        by_retained, value = hypergradient(
            Stage(classifier, loss, train, meta), gradients, retained.detach(), sgd
        )
        assert_equal(value, step["meta_loss"])
        adam.zero_grad()
        retained.backward(by_retained)
        assert_equal(theta.grad, step["grad_theta"][0])
        adam.step()
        assert_equal(theta.detach(), step["theta_after_adam"][0])
        sgd.zero_grad()
        train.logits.backward(gradients / len(gradients))
        sgd.step()
        assert_state(classifier, sgd, step["state_after"])
