"""Losses, gradients, running state and scores as the authors' own code computed them.

A file's ``random`` holds what the authors' code drew; ``draws`` below turns it into uniform draws
that lead to the same choice, and they go in through ``draw_uniform``.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from balms_det.losses import build_box_loss

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"
NOT_ARGUMENTS = {"frequency", "num_bins", "count", "count_rule"}


def _dropped_by_authors(case, loss):
    return torch.tensor(case["random"]["uniform"])


def _rows_taken_first(case, loss):
    """BAGS: rows that took part in a bin have the lowest draws of it."""
    weights = torch.tensor(case["random"]["bin_weights"])[1:].t()
    return 0.9 - 0.8 * weights


def _background_rows_taken_first(case, loss):
    """ACSL: the background rows that were drawn for rare and for common classes."""
    draws = torch.full((len(case["gt_classes"]), 3), 0.9)
    for column, group in enumerate(("rare", "common")):
        draws[case["random"][f"background_rows_for_{group}"], column] = 0.1
    return draws


def _classes_taken_first(case, loss):
    """Federated: keys ``-log(1 - u) / w``; the negatives that were drawn have the lowest."""
    draws = torch.full((loss.num_classes,), 1 - 1e-9, dtype=torch.float64)
    draws[case["random"]["sampled_negative_classes"]] = 1e-9
    return draws


FILES = {
    "eql": ("EQLLoss", None),
    "droploss": ("DropLoss", _dropped_by_authors),
    "eqlv2": ("EQLv2Loss", None),
    "seesaw": ("SeesawLoss", None),
    "fed_loss": ("FederatedLoss", _classes_taken_first),
    "bags": ("BAGSLoss", _rows_taken_first),
    "acsl": ("ACSLLoss", _background_rows_taken_first),
}


def _read(file):
    golden = json.loads((GOLDEN / f"{file}.json").read_text())
    golden["stats"] = SimpleNamespace(**golden["class_stats"])
    return golden


def _loss(file, golden, case=None):
    """The loss with the file's hyperparameters, or those of the case where it has its own."""
    name, draws = FILES[file]
    values = {k: v for k, v in golden["hyperparameters"].items() if k not in NOT_ARGUMENTS}
    case = case or {}
    values.update({k: v for k, v in {**case.get("random", {}), **case}.items() if k in values})
    loss = build_box_loss(name, golden["background_index"], golden["stats"], **values)
    if draws is not None:
        loss.draw_uniform = lambda *shape, like: draws(loss.case, loss).reshape(shape)
    return loss


def _check_state(loss, state):
    for key, expected in state.items():
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(getattr(loss, key), expected, rtol=1e-6, atol=0)


def _check(loss, case, dtype):
    loss.case = case
    logits = torch.tensor(case["logits"], dtype=dtype, requires_grad=True)
    value = loss(logits, torch.tensor(case["gt_classes"]))
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-6)
    expected = torch.tensor(case["grad_logits"], dtype=torch.float64)
    double = dtype is torch.float64
    tolerance = {"rtol": 1e-6, "atol": 1e-15} if double else {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close(logits.grad.double(), expected, **tolerance)
    if double:
        _check_state(loss, case["state_after"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("file", FILES)
def test_steps_in_order(file, dtype):
    golden = _read(file)
    loss = _loss(file, golden)
    for case in golden["steps"]:
        if dtype is torch.float64:
            _check_state(loss, case["state_before"])
        _check(loss, case, dtype)


@pytest.mark.parametrize("file", FILES)
def test_extra_cases(file):
    golden = _read(file)
    for case in golden["extra_cases"]:
        loss = _loss(file, golden, case)
        state = {k: torch.tensor(v, dtype=torch.float64) for k, v in case["state_before"].items()}
        loss.load_state_dict(state)
        _check(loss, case, torch.float64)


@pytest.mark.parametrize("file", FILES)
def test_scores(file):
    golden = _read(file)
    inference = golden["inference"]
    logits = torch.tensor(inference["logits"], dtype=torch.float64)
    expected = torch.tensor(inference["scores"], dtype=torch.float64)
    torch.testing.assert_close(_loss(file, golden).scores(logits), expected, rtol=1e-6, atol=0)


def test_eqlv2_scores_without_objectness():
    inference = _read("eqlv2")["inference"]
    loss = build_box_loss("EQLv2Loss", 12, test_with_obj=False)
    scores = loss.scores(torch.tensor(inference["logits"], dtype=torch.float64))
    expected = torch.tensor(inference["scores_without_objectness"], dtype=torch.float64)
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=0)


def test_bags_layout_is_the_authors():
    golden = _read("bags")
    loss = _loss("bags", golden)
    assert loss.slices == [length for _, length in golden["pred_slice"]]
    native = torch.tensor(golden["label2binlabel_native"])[1:]  # background first, classes after
    assert torch.equal(loss.bin_labels, torch.cat([native[:, 1:], native[:, :1]], dim=1))


def test_acsl_mask_is_the_authors():
    golden = _read("acsl")
    loss = _loss("acsl", golden)
    for case in golden["steps"] + golden["extra_cases"]:
        logits = torch.tensor(case["logits"], dtype=torch.float64)
        draws = _background_rows_taken_first(case, loss)
        mask = loss.suppressed(logits, torch.tensor(case["gt_classes"]), draws)
        assert mask.double().tolist() == case["random"]["weight_mask"]
