"""Losses with running state as the authors' own code computed them, step after step."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from balms_det.losses import build_box_loss
from balms_det.losses.core.feature_memory import draw_classes

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"


def _read(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def _build(golden, name, **arguments):
    stats = SimpleNamespace(**golden["class_stats"])
    return build_box_loss(name, len(stats.image_count), stats, **arguments)


def _tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def _close(actual, expected):
    torch.testing.assert_close(actual.detach().double(), _tensor(expected), rtol=1e-6, atol=1e-15)


def _restore(loss, state):
    """Set the buffers that the file names; None is a state that the authors make later."""
    state = {key: _tensor(value) for key, value in state.items() if value is not None}
    loss.load_state_dict({**loss.state_dict(), **state})


def _check(golden, loss, before=None):
    """Every step and case from its own state: loss, gradient and the state after; the scores."""
    for step in golden["steps"] + golden.get("extra_cases", []):
        _restore(loss, step["state_before"])
        if before is not None:
            before(loss, step)
        logits = _tensor(step["logits"]).requires_grad_()
        value = loss(logits, torch.tensor(step["gt_classes"]))
        value.backward()
        assert value.item() == pytest.approx(step["loss"], rel=1e-6)
        _close(logits.grad, step["grad_logits"])
        for key, expected in step["state_after"].items():
            _close(getattr(loss, key), expected)
    inference = golden["inference"]
    _close(loss.scores(_tensor(inference["logits"])), inference["scores"])


def test_effective_class_margins():
    golden = _read("ecm")
    loss = _build(golden, "ECMLoss", fg_bg_ratio=golden["hyperparameters"]["fg_bg_ratio"])
    _close(loss.class_weights, golden["detection_cls_weight"][0])
    _check(golden, loss)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("bacl_fcbl", "FCBLLoss"),
        ("bacl_fcbl_noreweight", "FCBLLoss"),
        ("gol_gumbel_ce", "GumbelLoss"),
        ("gol_eql_gumbel", "GumbelEQLLoss"),
    ],
)
def test_without_more_than_logits_and_labels(file, name):
    golden = _read(file)
    _check(golden, _build(golden, name, **golden["hyperparameters"]))


def test_gumbel_with_dropped_negatives():
    golden = _read("gol_droploss_gumbel")
    loss = _build(golden, "GumbelDropLoss", **golden["hyperparameters"])

    def inject(loss, step):
        draws = _tensor(step["random"]["uniform"])
        loss.draw_uniform = lambda *shape, like: draws.reshape(shape)

    _check(golden, loss, inject)


def _set_objects(loss, step):
    """Number the objects of all images, and the memory's rows, as the box predictor does."""
    given = step["random"]
    ids = torch.full((len(step["gt_classes"]),), -1)
    for image, assigned in enumerate(given["pos_assigned_gt_inds_per_image"]):
        start = image * given["rois_per_image"]
        ids[start : start + len(assigned)] = 100 * image + torch.tensor(assigned)
    memory = given["num_memory_rows_at_end"]
    if memory:
        ids[-memory:] = -2 - torch.tensor(given["memory_sample_labels"])
    loss.context = {"object_ids": ids}


def test_mean_scores():
    golden = _read("loce_ebl")
    _check(golden, _build(golden, "LOCELoss", **golden["hyperparameters"]), _set_objects)


def test_classes_drawn_from_the_memory():
    given = _read("loce_ebl")["memory_class_sampling"]
    drawn = draw_classes(_tensor(given["mean_score"])[:-1], _tensor(given["uniform_draws"]))
    assert drawn.tolist() == given["selected_classes"]


def _set_iteration(loss, step):
    loss.iter_id = step["iter_id"]


@pytest.mark.parametrize(
    ("file", "name"),
    [("pcb_ce", "PCBLoss"), ("pcb_seesaw", "PCBSeesawLoss"), ("pcb_eqlv2", "PCBEQLv2Loss")],
)
def test_pairwise_balance(file, name):
    golden = _read(file)
    _check(golden, _build(golden, name, **golden["hyperparameters"]), _set_iteration)
