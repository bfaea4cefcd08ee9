"""What holds for every registered calibration, on softmax and sigmoid heads."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from balms_det.modeling.calibration import (
    CALIBRATION_REGISTRY,
    Head,
    build_calibration,
    calibration_class,
)

K, D, R = 6, 8, 32
STATS = SimpleNamespace(
    image_count=[500, 120, 60, 9, 2, 1], instance_count=[900, 200, 60, 12, 2, 1], num_images=800
)
TABLES = {
    "fractal_dimension": [1.7, 1.5, 1.6, 1.2, 1.0, 1.0],
    "logit_mean": [-1.0, -1.5, -2.0, -4.0, -5.0, -5.5],
    "logit_var": [2.0, 1.8, 1.5, 1.0, 0.9, 0.7],
}
NAMES = sorted(name for name, _ in CALIBRATION_REGISTRY)
TO_SCORES = {
    "softmax": lambda logits: F.softmax(logits, dim=1),
    "sigmoid": lambda logits: F.pad(logits.sigmoid(), (0, 1)),
}
COLUMNS = {"softmax": K + 1, "sigmoid": K}
pytestmark = pytest.mark.parametrize("family", ["softmax", "sigmoid"])
every_name = pytest.mark.parametrize("name", NAMES)


def _build(name, family, strength=None, stats=STATS, **kwargs):
    kind = calibration_class(name)
    if strength is not None:
        kwargs.update(kind.arguments_for(strength))
    if kind.needs_statistics:
        kwargs.setdefault("statistics", TABLES)
    return build_calibration(name, Head(K, family), stats, **kwargs)


def _classifier(family, dtype=torch.float32):
    torch.manual_seed(0)
    linear = torch.nn.Linear(D, COLUMNS[family], dtype=dtype)
    features = 3 * torch.randn(R, D, dtype=dtype)
    return linear, features, linear(features).detach()


def _apply(calibration, logits, linear):
    return calibration(logits, TO_SCORES[calibration.head.family], linear)


@every_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strength_0_changes_no_bit(family, name, dtype):
    linear, _, logits = _classifier(family, dtype)
    calibration = _build(name, family, 0.0)
    assert torch.equal(_apply(calibration, logits, linear), TO_SCORES[family](logits))
    before = linear.weight.detach().clone(), linear.bias.detach().clone()
    calibration.bake(linear)
    assert torch.equal(linear.weight, before[0]) and torch.equal(linear.bias, before[1])


@every_name
def test_every_strength_that_is_tried_changes_scores(family, name):
    linear, _, logits = _classifier(family)
    plain = TO_SCORES[family](logits)
    for strength in calibration_class(name).strengths:
        scores = _apply(_build(name, family, strength), logits, linear)
        assert scores.shape == (R, K + 1)
        assert scores.isfinite().all() and (scores >= 0).all() and (scores <= 1).all()
        assert not torch.allclose(scores, plain)
        if family == "softmax":
            torch.testing.assert_close(scores.sum(1), torch.ones(R))


@every_name
def test_a_tiny_strength_changes_little(family, name):
    linear, _, logits = _classifier(family, torch.float64)
    scores = _apply(_build(name, family, 1e-9), logits, linear)
    torch.testing.assert_close(scores, TO_SCORES[family](logits), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["LogitAdjustment", "NorCal", "FRACAL"])
def test_scarce_classes_gain_on_frequent_ones(family, name):
    logits = torch.linspace(-4, 4, 9)[:, None].expand(9, COLUMNS[family])  # equal in all columns
    found = _apply(_build(name, family), logits, None)
    assert (found[:, 5] > found[:, 3]).all() and (found[:, 3] > found[:, 0]).all()


@every_name
def test_baked_classifier_gives_the_calibrated_scores(family, name):
    linear, features, logits = _classifier(family)
    calibration = _build(name, family, 0.5)
    expected = _apply(calibration, logits, linear)
    if (name, family) == ("FRACAL", "sigmoid"):
        with pytest.raises(ValueError, match="sigmoid head is no affine map"):
            calibration.bake(linear)
        return
    calibration.bake(linear)
    baked = TO_SCORES[family](linear(features))
    torch.testing.assert_close(baked, expected, rtol=1e-4, atol=1e-6)


@every_name
def test_logits_are_not_edited_and_nothing_is_saved(family, name):
    linear, _, logits = _classifier(family)
    before = logits.clone()
    calibration = _build(name, family)
    _apply(calibration, logits, linear)
    assert torch.equal(logits, before)
    assert not calibration.state_dict()


@every_name
@pytest.mark.parametrize("rows", [0, 1])
def test_empty_and_single_rows(family, name, rows):
    linear, _, logits = _classifier(family)
    assert _apply(_build(name, family), logits[:rows], linear).shape == (rows, K + 1)


@every_name
def test_half_precision_is_computed_in_float32(family, name):
    linear, _, logits = _classifier(family)
    calibration = _build(name, family, 0.5)
    half = _apply(calibration, logits.half(), linear)
    full = _apply(calibration, logits.half().float(), linear)
    assert half.dtype == torch.float32 and torch.equal(half, full)


@every_name
@pytest.mark.parametrize("images", [[0] * K, [0, 0, 5, 5, 5, 800], [800] * K])
def test_absent_and_omnipresent_classes_stay_finite(family, name, images):
    stats = SimpleNamespace(image_count=images, instance_count=images, num_images=800)
    linear, _, logits = _classifier(family)
    assert _apply(_build(name, family, stats=stats), logits, linear).isfinite().all()


def test_every_variant_of_fracal_stays_finite(family):
    linear, _, logits = _classifier(family)
    for images in ([0] * K, [800] * K):
        stats = SimpleNamespace(image_count=images, instance_count=images, num_images=800)
        for variant in ("none", "smooth", "raw", "base2", "prob", "normit", "gombit", "raw_obj"):
            found = _build("FRACAL", family, stats=stats, variant=variant)
            assert _apply(found, logits, linear).isfinite().all(), variant


@pytest.mark.parametrize("calibrate_on", ["exps", "probs", "logits"])
@pytest.mark.parametrize("method", ["gamma", "cb"])
def test_every_form_of_norcal(family, method, calibrate_on):
    linear, _, logits = _classifier(family, torch.float64)
    options = {"method": method, "calibrate_on": calibrate_on}
    scores = _apply(_build("NorCal", family, **options), logits, linear)
    raw = _apply(_build("NorCal", family, renorm=False, **options), logits, linear)
    assert raw.shape == scores.shape == (R, K + 1)
    if calibrate_on != "logits" and family == "softmax":
        torch.testing.assert_close(raw / raw.sum(1, keepdim=True), scores)
    if calibrate_on != "logits" and family == "sigmoid":
        odds = raw[:, :K] / (1 - TO_SCORES[family](logits)[:, :K])
        odds = raw[:, :K] if calibrate_on == "exps" else odds
        torch.testing.assert_close(odds / (1 + odds), scores[:, :K])


def test_logit_adjustment_relative_to_one_is_norcal(family):
    linear, _, logits = _classifier(family)
    one = _apply(_build("LogitAdjustment", family, tau=0.6, relative_to="one"), logits, linear)
    assert torch.equal(one, _apply(_build("NorCal", family, gamma=0.6), logits, linear))


def test_logit_adjustment_undoes_balanced_softmax(family):
    """Balanced Softmax adds log(n / mean(n)) in training, logit adjustment takes it at test."""
    from balms_det.losses import build_box_loss

    offsets = build_box_loss("BalancedSoftmaxLoss", K, STATS).offsets[:K]
    linear, _, logits = _classifier(family, torch.float64)
    shifted = logits.clone()
    shifted[:, :K] += offsets
    found = _apply(_build("LogitAdjustment", family), shifted, linear)
    torch.testing.assert_close(found, TO_SCORES[family](logits))


def test_extra_columns_of_a_sigmoid_head_stay_as_they_are(family):
    if family == "softmax":
        pytest.skip("a softmax head has K + 1 columns")
    logits = torch.randn(R, K + 2)
    for name in ("LogitAdjustment", "LogitNormalization"):
        found = _build(name, family)(logits, lambda changed: changed)
        assert torch.equal(found[:, K:], logits[:, K:])


@every_name
def test_wrong_argument_is_named(family, name):
    with pytest.raises(TypeError, match=rf"{name} takes no gama\. It takes: .*="):
        build_calibration(name, Head(K, family), STATS, gama=0.6)


@pytest.mark.parametrize("name", ["LogitAdjustment", "NorCal", "FRACAL"])
def test_counts_of_another_length_are_refused(family, name):
    with pytest.raises(ValueError, match=r"image_count has 6 classes but the head has 7"):
        build_calibration(name, Head(K + 1, family), STATS)
    with pytest.raises(ValueError, match=f"{name} needs class_stats"):
        build_calibration(name, Head(K, family))


@pytest.mark.parametrize("name", ["FRACAL", "LogitNormalization"])
def test_bad_statistics_are_refused(family, name, tmp_path):
    missing = tmp_path / "no_such.json"
    with pytest.raises(FileNotFoundError, match=r"no_such\.json.*tools/calibrate\.py"):
        _build(name, family, statistics=str(missing))
    with pytest.raises(FileNotFoundError, match="none are named"):
        _build(name, family, statistics="")
    path = tmp_path / "statistics.json"
    for text, message in [
        ("{", "is not a json file"),
        ("[1]", "must hold an object"),
        ('{"other": [1]}', "has no table"),
        (json.dumps({key: [1.0] * (K - 1) for key in TABLES}), f"{K} classes"),
        (json.dumps({key: [float("nan")] * K for key in TABLES}), "not finite"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            _build(name, family, statistics=str(path))
    path.write_text(json.dumps(TABLES))
    linear, _, logits = _classifier(family)
    from_file = _apply(_build(name, family, statistics=str(path)), logits, linear)
    assert torch.equal(from_file, _apply(_build(name, family), logits, linear))


def test_other_bad_arguments(family):
    for name, options in [
        ("LogitAdjustment", {"relative_to": "median"}),
        ("LogitAdjustment", {"counts": "boxes"}),
        ("NorCal", {"method": "sqrt"}),
        ("NorCal", {"calibrate_on": "boxes"}),
        ("NorCal", {"method": "cb", "gamma": 1.0}),
        ("FRACAL", {"variant": "base3"}),
        ("FRACAL", {"statistics": {"fractal_dimension": [0.0] * K}}),
        ("TemperatureScaling", {"temperature": 0.0}),
    ]:
        with pytest.raises(ValueError, match=r"must be|needs"):
            _build(name, family, **options)
    with pytest.raises(ValueError, match=r"Unknown calibration 'Norcal'\. Registered: .*NorCal"):
        build_calibration("Norcal", Head(K, family), STATS)
    with pytest.raises(ValueError, match="family must be one of"):
        Head(K, "cosine")


@every_name
def test_logits_of_another_shape_are_refused(family, name):
    linear, _, logits = _classifier(family)
    with pytest.raises(ValueError, match="got logits of shape"):
        _apply(_build(name, family, 0.5), logits[:, :-1], linear)


def test_tau_normalization_needs_a_linear_layer(family):
    _, _, logits = _classifier(family)
    with pytest.raises(ValueError, match="needs the Linear layer"):
        _apply(_build("TauNormalization", family), logits, torch.nn.Identity())


def test_tau_normalization_leaves_a_row_of_zeros(family):
    linear, features, _ = _classifier(family)
    with torch.no_grad():
        linear.weight[2] = 0
    scores = _apply(_build("TauNormalization", family), linear(features).detach(), linear)
    assert scores.isfinite().all()
