"""Losses with running state as the authors' own code computed them, step after step."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from balms_det.losses import build_box_loss

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def _read(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def _build(golden, name, **arguments):
    stats = SimpleNamespace(**golden["class_stats"])
    return build_box_loss(name, len(stats.image_count), stats, **arguments)


def _tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def _close(actual, expected):
    torch.testing.assert_close(actual.detach().double(), _tensor(expected), rtol=1e-6, atol=1e-12)


def _check_step(loss, step, state, before=None):
    """Restore the state, take the step, compare loss, gradient and the state after it."""
    for key, buffer in state.items():
        with torch.no_grad():
            buffer.copy_(_tensor(step["state_before"][key]))
    if before is not None:
        before(loss, step)
    logits = _tensor(step["logits"]).requires_grad_()
    value = loss(logits, torch.tensor(step["gt_classes"]))
    value.backward()
    assert value.item() == pytest.approx(step["loss"], rel=1e-6)
    torch.testing.assert_close(logits.grad, _tensor(step["grad_logits"]), rtol=1e-6, atol=1e-15)
    for key, buffer in state.items():
        _close(buffer, step["state_after"][key])


def _check(golden, loss, state, before=None):
    for step in golden["steps"] + golden.get("extra_cases", []):
        _check_step(loss, step, state, before)
    inference = golden["inference"]
    _close(loss.scores(_tensor(inference["logits"])), inference["scores"])


def test_effective_class_margins():
    golden = _read("ecm")
    loss = _build(golden, "ECMLoss", background_ratio=golden["hyperparameters"]["fg_bg_ratio"])
    _close(loss.class_weights, golden["detection_cls_weight"][0])
    _check(golden, loss, {})


@pytest.mark.parametrize("name", ["bacl_fcbl", "bacl_fcbl_noreweight"])
def test_foreground_balance(name):
    golden = _read(name)
    given = golden["hyperparameters"]
    loss = _build(
        golden,
        "FCBLLoss",
        alpha=given["alpha"],
        select=given["reweight"],
        score_threshold=given["prob_thr"],
    )
    state = {"cm_numerator": loss.confusion_sum, "num_gt": loss.rois_of_class}
    _check(golden, loss, state)


def test_gumbel():
    golden = _read("gol_gumbel_ce")
    loss = _build(golden, "GumbelLoss", **golden["hyperparameters"])
    _check(golden, loss, {})


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
    loss = _build(golden, "LOCELoss", **golden["hyperparameters"])
    _check(golden, loss, {"mean_score": loss.mean_score}, _set_objects)


def _pcb_state(loss):
    confusion = loss.balance.confusion
    return {"fg_confusion_matrix": confusion.matrix, "num_inst_cnt": confusion.count}


def _set_iteration(loss, step):
    loss.balance.epoch.fill_(step["epoch"])
    loss.balance.iteration = step["iter_id"]


def test_pairwise_balance():
    golden = _read("pcb_ce")
    loss = _build(golden, "PCBLoss", **golden["hyperparameters"])
    _check(golden, loss, _pcb_state(loss), _set_iteration)
