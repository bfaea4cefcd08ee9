"""Calibrations against numbers that the authors' own code computed."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from balms_det.modeling.calibration import (
    Head,
    LogitStatistics,
    build_calibration,
    frequency_weights,
    tau_scale,
)
from balms_det.modeling.calibration.fractal import fractal_dimensions

FOLDER = Path(__file__).parents[1] / "assets" / "golden"
TO_SCORES = {
    "softmax": lambda logits: F.softmax(logits, dim=1),
    "sigmoid": lambda logits: F.pad(logits.sigmoid(), (0, 1)),
}


def _read(name):
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    golden["stats"] = SimpleNamespace(**golden["class_stats"])
    return golden


def _tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def _close(found, expected):
    torch.testing.assert_close(found, _tensor(expected), rtol=1e-6, atol=1e-9)


def _scores(golden, name, logits, family="softmax", **kwargs):
    head = Head(golden["background_index"], family)
    calibration = build_calibration(name, head, golden["stats"], **kwargs)
    return calibration(_tensor(logits), TO_SCORES[family])


def _cases(name):
    golden = _read(name)
    return [pytest.param(golden, case, id=str(i)) for i, case in enumerate(golden["cases"])]


@pytest.mark.parametrize(("golden", "case"), _cases("norcal"))
def test_norcal(golden, case):
    options = {key: case[key] for key in ("method", "gamma", "calibrate_on", "renorm")}
    found = _scores(golden, "NorCal", golden["inference"]["logits"], **options)
    _close(found, case["scores"])


@pytest.mark.parametrize(("golden", "case"), _cases("fracal"))
def test_fracal(golden, case):
    family = case["head"]
    classes = golden["background_index"]
    weights = frequency_weights(golden["stats"], case["variant"])
    _close(weights, case["frequency_weights"][:classes])
    found = _scores(
        golden,
        "FRACAL",
        case.get("logits", golden["inference"]["logits"]),
        family,
        statistics={"fractal_dimension": golden["fractal_dimensions"]},
        variant=case["variant"],
        fractal_lambda=case["fractal_lambda"],
    )
    _close(found if family == "softmax" else found[:, :classes], case["scores"])


def test_fracal_frequency_table():
    """The authors' table is the scale of 1/f alone: only differences between classes compare."""
    golden = _read("fracal")
    for variant, row in golden["frequency_table"].items():
        found = frequency_weights(golden["stats"], variant)
        _close(found - found[0], np.subtract(row, row[0]))


def test_fractal_dimensions():
    script = _read("fracal")["fractal_dimension_script"]
    classes = np.array(script["category_one_based"]) - 1
    expected = script["fractal_dimension"]
    found = fractal_dimensions(
        np.array(script["centre_x"]),
        np.array(script["centre_y"]),
        classes,
        len(expected),
        script["grid_max"],
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_logn_statistics_pass():
    golden = _read("logn")
    options = golden["hyperparameters"]
    statistics = LogitStatistics(
        golden["background_index"] + 1, momentum=options["momentum"], bn_eps=options["bn_eps"]
    ).double()
    for step in golden["steps"]:
        _close(statistics.running_mean, step["state_before"]["running_mean"])
        logits = _tensor(step["logits"]).requires_grad_()
        normalised = statistics(logits)
        _close(normalised, step["normalised_logits"])
        loss = F.cross_entropy(normalised, torch.tensor(step["gt_classes"]))
        loss.backward()
        _close(loss, step["loss"])
        _close(logits.grad, step["grad_logits"])
        _close(statistics.running_mean, step["state_after"]["running_mean"])
        _close(statistics.running_var, step["state_after"]["running_var"])


@pytest.mark.parametrize(
    ("record", "state"),
    [("inference", "state_after_inference"), ("inference_momentum1", "state")],
)
def test_logn_inference(record, state):
    golden = _read("logn")
    inference = golden[record]
    state = inference[state]
    tables = {"logit_mean": state["running_mean"], "logit_var": state["running_var"]}
    head = Head(golden["background_index"])
    floor = golden["hyperparameters"]["var_floor"]
    calibration = build_calibration("LogitNormalization", head, statistics=tables, var_floor=floor)
    logits = _tensor(inference["logits"])
    _close(calibration(logits, lambda changed: changed), inference["calibrated_logits"])
    _close(calibration(logits, TO_SCORES["softmax"]), inference["scores"])


@pytest.mark.parametrize(("golden", "case"), _cases("tau_norm"))
def test_tau_norm(golden, case):
    classes = golden["background_index"]
    features, tau = _tensor(golden["features"]), case["tau"]
    linear = torch.nn.Linear(features.shape[1], classes + 1, dtype=torch.float64)
    linear.load_state_dict({"weight": _tensor(golden["weight"]), "bias": _tensor(golden["bias"])})
    logits = linear(features).detach()

    rows = linear.weight.detach()[:classes]
    _close(rows * tau_scale(rows, tau)[:, None], case["classification_weight"])
    without_bias = build_calibration("TauNormalization", Head(classes), tau=tau, keep_bias=False)
    changed = without_bias(logits, lambda changed: changed, linear)
    _close(changed[:, :classes], case["classification_logits"])

    calibration = build_calibration("TauNormalization", Head(classes), tau=tau)
    _close(calibration(logits, lambda changed: changed, linear), case["detection_logits"])
    _close(calibration(logits, TO_SCORES["softmax"], linear), case["detection_scores"])
    calibration.bake(linear)
    _close(linear.weight.detach(), case["detection_weight"])
    _close(linear(features).detach(), case["detection_logits"])
