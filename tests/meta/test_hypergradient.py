"""The closed form against numerical derivatives of the whole look-ahead, for every loss."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from balms_det.losses import BOX_LOSS_REGISTRY, build_box_loss
from balms_det.meta import RoIBatch, Stage, hypergradient
from balms_det.meta.hypergradient import META_LOSSES, logits_along, virtual_sgd_step

K, D, R = 4, 3, 7
STATS = SimpleNamespace(
    image_count=[1, 8, 60, 300], instance_count=[1, 10, 90, 900], num_images=400
)
ALL_LOSSES = sorted(name for name, _ in BOX_LOSS_REGISTRY)
OPTIMISERS = {
    "plain": {"lr": 0.3},
    "momentum": {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.01},
    "dampening": {"lr": 0.2, "momentum": 0.5, "dampening": 0.4},
    "nesterov": {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05},
}


class CosineClassifier(nn.Module):
    """A classifier whose logits are not linear in its weights."""

    def __init__(self, width, rows):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, width))

    def forward(self, features):
        unit = nn.functional.normalize
        return 5 * unit(features, dim=1) @ unit(self.weight, dim=1).T


def make_problem(loss_name, options, classifier_type=nn.Linear, steps_before=2):
    torch.manual_seed(0)
    loss = build_box_loss(loss_name, K, STATS).double()
    classifier = loss.reset_classifier(nn.Linear(D, loss.num_logits)).double()
    if classifier_type is not nn.Linear:
        classifier = classifier_type(D, loss.num_logits).double()
    optimizer = torch.optim.SGD(classifier.parameters(), **options)
    for _ in range(steps_before):  # so that there is momentum
        optimizer.zero_grad()
        classifier(torch.randn(4, D, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
    optimizer.zero_grad()
    batches = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(R, D, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, K + 1, (R,), generator=generator)
        batches.append(RoIBatch(features, classifier(features), labels))
    return Stage(classifier, loss, *batches, loss_weight=1.7), optimizer


def look_ahead(stage, optimizer, omega, meta_loss):
    """The meta loss after a real step of a copy of everything."""
    classifier, loss, copied = copy.deepcopy([stage.classifier, stage.cls_loss, optimizer])
    copied.param_groups[0]["params"] = list(classifier.parameters())
    copied.state = type(copied.state)(
        dict, zip(classifier.parameters(), copy.deepcopy(list(optimizer.state.values())))
    )
    torch.manual_seed(7)  # losses that draw must draw alike
    weighted = loss(classifier(stage.train.features), stage.train.gt_classes, omega)
    (weighted * stage.loss_weight).backward()
    copied.step()
    logits = classifier(stage.meta.features)
    return float(META_LOSSES[meta_loss](loss, logits.detach(), stage.meta.gt_classes))


def numerical(stage, optimizer, omega, meta_loss, step=1e-4):
    slopes = []
    for i in range(len(omega)):
        shift = torch.zeros_like(omega)
        shift[i] = step
        high, low = (
            look_ahead(stage, optimizer, moved, meta_loss)
            for moved in (omega + shift, omega - shift)
        )
        slopes.append((high - low) / (2 * step))
    return torch.tensor(slopes, dtype=torch.float64)


def closed_form(stage, optimizer, omega, meta_loss):
    torch.manual_seed(7)
    stage = Stage(**{**vars(stage), "cls_loss": copy.deepcopy(stage.cls_loss)})
    _, gradients = stage.cls_loss.row_gradients(stage.train.logits, stage.train.gt_classes)
    return hypergradient(stage, gradients, omega, optimizer, META_LOSSES[meta_loss])[0]


def check(problem, meta_loss="paper"):
    omega = torch.linspace(0.2, 2, R, dtype=torch.float64)
    expected = numerical(*problem, omega, meta_loss)
    actual = closed_form(*problem, omega, meta_loss)
    largest = float(expected.abs().max())  # small where a scaled cosine saturates the softmax
    assert largest > 1e-8
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4 * largest + 1e-9)


@pytest.mark.parametrize("loss_name", ALL_LOSSES)
def test_every_loss(loss_name):
    check(make_problem(loss_name, OPTIMISERS["momentum"]))


@pytest.mark.parametrize("loss_name", ["BalancedSoftmaxLoss", "BalancedSigmoidLoss"])
def test_meta_loss_of_the_authors_code(loss_name):
    check(make_problem(loss_name, OPTIMISERS["momentum"]), "reference")


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_kind_of_sgd(name, steps_before):
    check(make_problem("BalancedSoftmaxLoss", OPTIMISERS[name], steps_before=steps_before))


def test_a_classifier_that_is_not_linear():
    check(make_problem("SoftmaxLoss", OPTIMISERS["nesterov"], CosineClassifier))


@pytest.mark.parametrize("loss_name", ["SoftmaxLoss", "SigmoidLoss"])
def test_logits_along_is_the_same_for_linear_and_other_modules(loss_name):
    stage, _ = make_problem(loss_name, OPTIMISERS["plain"])
    direction = {name: torch.randn_like(p) for name, p in stage.classifier.named_parameters()}

    class Renamed(nn.Linear):
        pass

    other = Renamed(D, stage.classifier.out_features).double()
    other.load_state_dict(stage.classifier.state_dict())
    features = stage.train.features
    expected = logits_along(stage.classifier, features, direction)
    torch.testing.assert_close(logits_along(other, features, direction), expected)


def test_learning_rate_0_has_no_gradient():
    stage, optimizer = make_problem("BalancedSoftmaxLoss", {"lr": 0.0, "momentum": 0.9})
    omega = torch.ones(R, dtype=torch.float64)
    assert closed_form(stage, optimizer, omega, "paper").abs().max() == 0


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_virtual_step_is_the_step_of_torch(name, steps_before):
    stage, optimizer = make_problem("SoftmaxLoss", OPTIMISERS[name], steps_before=steps_before)
    gradient = {p: torch.randn_like(p) for p in stage.classifier.parameters()}
    virtual = {p: virtual_sgd_step(optimizer, p, g)[0] for p, g in gradient.items()}
    for parameter, value in gradient.items():
        parameter.grad = value
    optimizer.step()
    for parameter, value in virtual.items():
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-12, atol=1e-14)


def test_a_classifier_that_does_not_train_is_an_error():
    stage, _ = make_problem("SoftmaxLoss", OPTIMISERS["plain"])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match="does not train the box classifier"):
        closed_form(stage, optimizer, torch.ones(R, dtype=torch.float64), "paper")
