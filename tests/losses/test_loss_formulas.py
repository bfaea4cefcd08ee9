"""Losses against their formulas, and hyperparameters that switch parts of them off."""

from types import SimpleNamespace

import pytest
import torch
from loss_fixtures import STATS, K, R, fix_draws, make_batch
from torch.nn import functional as F

from balms_det.losses import CosineClassifier, build_box_loss, effective_number_weights


def _rows(name, **arguments):
    loss = build_box_loss(name, K, STATS, **arguments)
    logits, labels = make_batch(loss)
    fix_draws(loss)
    return loss, logits, labels, loss.per_roi(logits, labels)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.9), (0.0, None)])
def test_focal_loss_is_its_formula(gamma, alpha):
    _, logits, labels, rows = _rows("FocalLoss", gamma=gamma, alpha=alpha)
    target = F.one_hot(labels, K + 1)[:, :K]
    score = logits.sigmoid()
    right = torch.where(target == 1, score, 1 - score)
    weight = 1.0 if alpha is None else torch.where(target == 1, alpha, 1 - alpha)
    expected = -weight * (1 - right) ** gamma * right.log()
    torch.testing.assert_close(rows, expected.sum(dim=1))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
def test_focal_gradient_is_finite_where_scores_underflow(gamma):
    loss = build_box_loss("FocalLoss", K, gamma=gamma)
    logits = torch.full((2, K), -1e3, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits, torch.tensor([0, K])), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("base", ["SoftmaxLoss", "SigmoidLoss", "FocalLoss", "SeesawLoss"])
def test_class_balanced_loss_weighs_the_rows_of_another(base):
    loss, logits, labels, rows = _rows("ClassBalancedLoss", base_loss=base, beta=0.99)
    plain = build_box_loss(base, K).per_roi(logits, labels)
    count = torch.tensor(STATS.instance_count, dtype=torch.float64)
    weights = 0.01 / (1 - 0.99**count)
    weights = F.pad(weights * K / weights.sum(), (0, 1), value=1.0)
    torch.testing.assert_close(rows, plain * weights[labels])
    assert torch.equal(loss.scores(logits), build_box_loss(base, K).scores(logits))


def test_class_balanced_loss_passes_arguments_on():
    loss = build_box_loss(
        "ClassBalancedLoss", K, STATS, base_loss="FocalLoss", base_args={"GAMMA": 3}
    )
    assert loss.base.gamma == 3
    with pytest.raises(TypeError, match="FocalLoss takes no tau"):
        build_box_loss("ClassBalancedLoss", K, STATS, base_loss="FocalLoss", base_args={"TAU": 1})


def test_effective_number_weights_go_from_equal_to_inverse_counts():
    count = torch.tensor([1.0, 10.0, 1000.0])
    assert effective_number_weights(count, 0.0).tolist() == [1, 1, 1]
    ratio = effective_number_weights(count, 1 - 1e-9)
    torch.testing.assert_close(ratio[0] / ratio, count.double(), rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="beta"):
        effective_number_weights(count, 1.0)


def test_a_class_without_examples_does_not_move_the_others():
    weights = effective_number_weights(torch.tensor([1.0, 10.0, 0.0]), 0.9)
    torch.testing.assert_close(
        weights[:2], effective_number_weights(torch.tensor([1.0, 10.0]), 0.9)
    )
    assert weights[2] == weights[0]
    assert effective_number_weights(torch.zeros(2), 0.9).isfinite().all()


@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_logit_adjustment_adds_the_log_prior(ratio):
    """With background as a class the offsets are log pi up to a constant."""
    _, logits, labels, rows = _rows("LogitAdjustedLoss", background="class", background_ratio=ratio)
    count = torch.tensor(STATS.instance_count, dtype=torch.float64)
    share = torch.cat([count, ratio * count.sum(dim=0, keepdim=True)])
    adjusted = logits + (share / share.sum()).log()
    torch.testing.assert_close(rows, F.cross_entropy(adjusted, labels, reduction="none"))


def test_ldam_lowers_the_label_by_its_margin():
    _, logits, labels, rows = _rows("LDAMLoss", max_m=0.4, scale=10.0)
    margin = torch.tensor([*STATS.instance_count, torch.inf], dtype=torch.float64) ** -0.25
    margin = 0.4 * margin / margin.max()
    lowered = logits - 10 * F.one_hot(labels, K + 1) * margin
    torch.testing.assert_close(rows, F.cross_entropy(lowered, labels, reduction="none"))


def test_ldam_reweights_from_an_iteration_on():
    loss = build_box_loss("LDAMLoss", K, STATS, drw_start=2)
    never = build_box_loss("LDAMLoss", K, STATS)
    logits, labels = make_batch(loss)
    weights = effective_number_weights(torch.tensor(STATS.instance_count), 0.9999)
    weights = F.pad(weights, (0, 1), value=1.0)[labels]
    expected = never.per_roi(logits, labels)
    for factor in (1.0, 1.0, weights, weights):
        torch.testing.assert_close(loss.per_roi(logits, labels), expected * factor)


@pytest.mark.parametrize(("name", "scale"), [("SeesawLoss", 20.0), ("LDAMLoss", 30.0)])
def test_cosine_classifiers(name, scale):
    loss = build_box_loss(name, K, STATS)
    classifier = loss.reset_classifier(torch.nn.Linear(4, loss.num_logits))
    assert isinstance(classifier, CosineClassifier) and classifier.scale == scale
    linear = torch.nn.Linear(4, K + 2)
    assert build_box_loss("SeesawLoss", K, cosine=False).reset_classifier(linear) is linear


@pytest.mark.parametrize("name", ["EQLLoss", "DropLoss"])
def test_no_rare_class_leaves_the_plain_loss(name):
    loss, logits, labels, rows = _rows(name, lambda_=0.0)
    torch.testing.assert_close(rows, loss.plain_per_roi(logits, labels))


def test_first_batch_of_eqlv2_is_plain():
    loss, logits, labels, rows = _rows("EQLv2Loss")
    torch.testing.assert_close(rows, loss.plain_per_roi(logits, labels))
    assert not torch.allclose(loss.per_roi(logits, labels), rows)


def test_seesaw_without_its_factors_is_plain():
    loss, logits, labels, rows = _rows("SeesawLoss", p=0.0, q=0.0)
    torch.testing.assert_close(rows, loss.plain_per_roi(logits, labels))


def test_acsl_that_suppresses_everything_is_plain():
    loss, logits, labels, rows = _rows(
        "ACSLLoss", score_thr=0.0, rare_fraction=1.0, common_fraction=1.0
    )
    torch.testing.assert_close(rows, loss.plain_per_roi(logits, labels))


def test_acsl_may_keep_confident_negatives_of_background():
    loss = build_box_loss(
        "ACSLLoss",
        1,
        SimpleNamespace(image_count=[1], instance_count=[1], num_images=2),
        threshold_background=True,
    )
    sure, unsure = torch.tensor([[5.0, 0.0]]), torch.tensor([[-5.0, 0.0]])
    background, draws = torch.tensor([1]), torch.rand(1, 3)
    assert loss.suppressed(sure, background, draws).tolist() == [[True, True]]
    assert loss.suppressed(unsure, background, draws).tolist() == [[False, True]]


def test_bags_with_all_others_is_plain_up_to_the_bins_means():
    """All RoIs are in all bins, so every bin's mean is over R."""
    loss, logits, labels, rows = _rows("BAGSLoss", others_sample_ratio=1e9)
    own = (loss.bin_labels[:, labels] > 0).any(dim=1)
    losses = loss.bin_losses(logits, labels)[:, 1:] * own
    torch.testing.assert_close(rows, losses.sum(dim=1) + loss.bin_losses(logits, labels)[:, 0])


def test_federated_draws_classes_by_the_power_of_their_counts():
    loss = build_box_loss("FederatedLoss", K, STATS, fed_loss_num_classes=2)
    labels = torch.tensor([K, K])  # background takes one place, so one class is drawn
    torch.manual_seed(0)
    draws = torch.rand(4000, K)
    drawn = torch.stack([loss.kept_classes(labels, row) for row in draws]).double()
    assert (drawn.sum(dim=1) == 1).all()
    weight = torch.tensor(STATS.image_count, dtype=torch.float64) ** 0.5
    torch.testing.assert_close(drawn.mean(dim=0), weight / weight.sum(), rtol=0, atol=0.03)


def test_federated_never_draws_a_class_without_images():
    stats = SimpleNamespace(image_count=[0, 5, 5], instance_count=[0, 5, 5], num_images=9)
    loss = build_box_loss("FederatedLoss", 3, stats)
    kept = loss.kept_classes(torch.tensor([3]), torch.rand(3))
    assert kept.tolist() == [False, True, True]


def test_droploss_keeps_what_its_share_says():
    """A third of the objects is rare: a draw above it drops, one below keeps."""
    loss = build_box_loss("DropLoss", K, STATS, lambda_=0.05)  # the first four classes
    labels = torch.tensor([0, 5, 6, K])
    for draw, dropped in ((0.32, 0), (0.34, 4)):
        loss.draw_uniform = lambda *shape, like, draw=draw: like.new_full(shape, draw)
        (gradient,) = torch.autograd.grad(
            loss.per_roi(z := torch.zeros(4, K, requires_grad=True), labels)[3], z
        )
        assert (gradient[3] == 0).sum() == dropped


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("FocalLoss", {"gamma": -1.0}, "gamma may not be negative"),
        ("FocalLoss", {"alpha": 2.0}, "alpha lies in"),
        ("LDAMLoss", {"scale": 0.0}, "scale must be positive"),
        ("SeesawLoss", {"eps": 0.0}, "must be positive"),
        ("FederatedLoss", {"fed_loss_num_classes": 0}, "must be 1 or more"),
        ("BAGSLoss", {"bin_edges": (100, 10)}, "must increase"),
        ("BAGSLoss", {"others_sample_ratio": -1.0}, "negative"),
        ("ACSLLoss", {"rare_fraction": 1.5}, "fractions"),
        ("EQLv2Loss", {"prior_prob": 0.0}, "prior_prob"),
        ("ClassBalancedLoss", {"base_loss": "Nothing"}, "Unknown box loss"),
    ],
)
def test_illegal_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_box_loss(name, K, STATS, **arguments)


def test_draws_are_new_every_time():
    loss = build_box_loss("DropLoss", K, STATS, lambda_=0.5)
    logits, labels = make_batch(loss)
    torch.manual_seed(0)
    first, second = loss.per_roi(logits, labels), loss.per_roi(logits, labels)
    assert not torch.equal(first, second) and first.shape == (R,)
