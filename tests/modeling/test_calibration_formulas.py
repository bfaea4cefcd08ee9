"""Calibrations with other strengths and counts than the golden files', against numpy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from balms_det.data.repeat_factors import (
    CategoryIncidence,
    class_repeat_factors,
    instance_aware_frequency,
)
from balms_det.modeling.calibration import Head, build_calibration

K, R = 5, 12
RNG = np.random.default_rng(0)
IMAGES, INSTANCES, TOTAL = np.array([3, 90, 12, 41, 7]), np.array([4, 300, 15, 44, 90]), 120
STATS = SimpleNamespace(image_count=IMAGES, instance_count=INSTANCES, num_images=TOTAL)
LOGITS = 3 * RNG.standard_normal((R, K + 1))


def _softmax(logits):
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def _scores(name, classifier=None, **arguments):
    calibration = build_calibration(name, Head(K), STATS, **arguments)
    scores = calibration(torch.tensor(LOGITS), lambda z: F.softmax(z, dim=1), classifier)
    return scores.detach().numpy()


@pytest.mark.parametrize(("gamma", "counts"), [(0.35, IMAGES), (1.4, INSTANCES)])
def test_norcal(gamma, counts):
    exps = np.exp(LOGITS)
    exps[:, :K] /= counts**gamma
    named = "image" if counts is IMAGES else "instance"
    found = _scores("NorCal", gamma=gamma, counts=named)
    np.testing.assert_allclose(found, exps / exps.sum(axis=1, keepdims=True), rtol=1e-9)


def test_norcal_by_effective_numbers():
    beta = 0.97
    factor = (1 - beta) / (1 - beta**IMAGES)
    scores = _softmax(LOGITS)
    scores[:, :K] *= factor
    found = _scores("NorCal", gamma=beta, method="cb", calibrate_on="probs", renorm=False)
    np.testing.assert_allclose(found, scores, rtol=1e-9)
    found = _scores("NorCal", gamma=beta, method="cb", calibrate_on="probs")
    np.testing.assert_allclose(found, scores / scores.sum(axis=1, keepdims=True), rtol=1e-9)


@pytest.mark.parametrize(("lambda_", "strength"), [(0.7, 1.0), (3.0, 0.4)])
def test_fracal(lambda_, strength):
    dimension = RNG.uniform(0.3, 1.9, K)
    share = INSTANCES / INSTANCES.sum()
    weights = -np.log10(share) - np.log10(K)
    exps = np.exp(LOGITS)
    exps[:, :K] *= (np.exp(weights) / dimension**lambda_) ** strength
    found = _scores(
        "FRACAL",
        statistics={"fractal_dimension": dimension.tolist()},
        variant="base10_obj",
        fractal_lambda=lambda_,
        strength=strength,
    )
    np.testing.assert_allclose(found, exps / exps.sum(axis=1, keepdims=True), rtol=1e-9)


def test_logit_normalisation():
    mean, variance = RNG.standard_normal(K + 1), RNG.uniform(0.1, 4, K + 1)
    variance[1] = 1e-9
    changed = LOGITS.copy()
    spread = np.sqrt(np.maximum(variance[:K], 1e-2))
    changed[:, :K] = (LOGITS[:, :K] - mean[:K] + mean[:K].min()) / spread
    tables = {"logit_mean": mean.tolist(), "logit_var": variance.tolist()}
    found = _scores("LogitNormalization", statistics=tables, var_floor=1e-2)
    np.testing.assert_allclose(found, _softmax(changed), rtol=1e-9)


@pytest.mark.parametrize("tau", [0.33, 1.7])
def test_tau_normalisation(tau):
    linear = torch.nn.Linear(4, K + 1, dtype=torch.float64)
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    scale = np.append(np.linalg.norm(weight[:K], axis=1) ** -tau, 1.0)
    found = _scores("TauNormalization", linear, tau=tau)
    np.testing.assert_allclose(found, _softmax((LOGITS - bias) * scale + bias), rtol=1e-9)


@pytest.mark.parametrize("threshold", [0.07, 0.6])
@pytest.mark.parametrize("sqrt", [True, False])
def test_repeat_factors(threshold, sqrt):
    per_image = [[0, 0, 2], [], [1], [1, 2, 2, 2], [0], [1, 1]]
    records = [{"annotations": [{"category_id": c} for c in image]} for image in per_image]
    incidence = CategoryIncidence.from_dicts(records)
    image = np.array([sum(c in row for row in per_image) for c in range(3)]) / len(per_image)
    flat = [c for image in per_image for c in image]
    instance = np.array([flat.count(c) for c in range(3)]) / len(flat)
    for frequency, found in (
        (image, incidence.image_frequency),
        (
            np.sqrt(image * instance),
            instance_aware_frequency(incidence.image_frequency, incidence.instance_frequency),
        ),
    ):
        expected = threshold / frequency
        expected = np.maximum(1, np.sqrt(expected) if sqrt else expected)
        factors = class_repeat_factors(found, threshold, sqrt)
        np.testing.assert_allclose(factors, expected, rtol=1e-9)
