"""Steps that are left out, those of a gradient scaler, and the meta step's own batch."""

import copy

import pytest
import torch
from detectron2.engine import HookBase

from balms_det.engine.hooks import SeedEveryStep
from balms_det.engine.non_finite import NonFiniteGuard, NonFiniteStepError
from balms_det.engine.step_watch import load_batch
from tests.engine.non_finite_fixtures import (
    INF,
    NAN,
    At,
    ScaledTrainer,
    make_trainer,
    meta_trainer,
    spoil,
    train,
    with_ids,
)
from tests.modeling.conftest import batch, tiny_cfg  # noqa: F401
from tests.versions import needs_torch


def states(trainer):
    momenta = [s["momentum_buffer"] for s in trainer.optimizer.state_dict()["state"].values()]
    return [*trainer.model.state_dict().values(), *momenta]


class Absent(HookBase):
    """Some iterations that are not run at all."""

    def __init__(self, iterations):
        self.iterations = iterations

    def before_train(self):
        run = self.trainer.run_step
        self.trainer.run_step = lambda: None if self.trainer.iter in self.iterations else run()


def test_a_step_that_is_left_out_leaves_nothing(tiny_cfg, batch, tmp_path, caplog):  # noqa: F811
    """Weights, momenta, running statistics and the loss's running state are those without it."""
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "SeesawLoss"
    trainer = make_trainer(tiny_cfg, batch)
    change = spoil(trainer.model.roi_heads.box_head.fc1, NAN)
    counted = []

    class Count(HookBase):
        def after_step(self):
            counted.append(self.trainer.storage.latest().get("non_finite/skipped"))

    guard = train(trainer, tmp_path, hooks=[At([1, 3], change), Count()], skip=True)
    expected = make_trainer(tiny_cfg, batch)
    expected.register_hooks([SeedEveryStep(3), Absent([1, 3])])
    expected.train(0, 4)
    assert all(torch.equal(mine, its) for mine, its in zip(states(trainer), states(expected)))
    assert counted == [None, (1, 1), (1, 1), (2, 3)]
    assert guard.state_dict() == {"skipped": 2, "in_a_row": 1}
    assert "Iteration 3 is left out: not finite: " in caplog.text and "70, 71" in caplog.text
    assert not (tmp_path / "non_finite").exists()


def test_too_many_in_a_row_stop_the_run(tiny_cfg, batch, tmp_path):  # noqa: F811
    trainer = make_trainer(tiny_cfg, batch)
    change = spoil(trainer.model.backbone.fpn_output2, NAN)
    with pytest.raises(NonFiniteStepError, match=r"Iteration 4 .*step 2 in a row"):
        train(trainer, tmp_path, 9, [At([1, 3, 4], change)], skip=True, max_in_a_row=2)
    assert [p.name for p in (tmp_path / "non_finite").iterdir()] == ["iteration_0000004_rank0.pth"]


def test_the_count_survives_a_restart(tmp_path):
    guard = NonFiniteGuard(tmp_path, skip=True)
    guard.load_state_dict({"skipped": 5, "in_a_row": 2})
    assert (guard.skipped, guard.in_a_row) == (5, 2)
    assert guard.state_dict() == {"skipped": 5, "in_a_row": 2}
    assert NonFiniteGuard(tmp_path).state_dict() == {}


@needs_torch(2, 3, "there is no gradient scaler for the CPU")
@pytest.mark.parametrize("scale", [1024.0, 1.0])
def test_a_gradient_scaler_may_meet_infinity(tiny_cfg, batch, tmp_path, scale):  # noqa: F811
    """Only what its scale cannot explain is a fault."""
    trainer = make_trainer(tiny_cfg, batch, ScaledTrainer, scale=scale)
    weight = trainer.model.roi_heads.box_predictor.cls_score.weight
    hooks = [At([1], lambda: weight.register_hook(lambda g: g * INF).remove)]
    if scale == 1:
        with pytest.raises(NonFiniteStepError, match=r"Iteration 1 .*cls_score"):
            train(trainer, tmp_path, 2, hooks)
    else:
        train(trainer, tmp_path, 2, hooks)
        assert trainer.grad_scaler.get_scale() == scale / 2
        assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


def test_the_meta_batch(tiny_cfg, batch, tmp_path):  # noqa: F811
    """Its NaN reaches the meta loss and the learner, which a step that is left out puts back."""
    tiny_cfg.MODEL.RESNETS.NORM = "FrozenBN"
    bad = copy.deepcopy(batch)
    bad[0]["image"][:, :8] = NAN
    train_data, meta_data = ([with_ids(batch)], [with_ids(batch), with_ids(bad)])
    with pytest.raises(NonFiniteStepError, match=r"Iteration 1 .*meta_loss = nan"):
        train(meta_trainer(tiny_cfg, train_data, meta_data), tmp_path)
    saved = load_batch(tmp_path / "non_finite" / "iteration_0000001_rank0.pth")
    assert len(saved["inputs"]) == 2 and saved["inputs"][0][0]["image"].isnan().any()
    trainer = meta_trainer(tiny_cfg, train_data, meta_data)
    train(trainer, tmp_path, 2, skip=True)
    expected = meta_trainer(tiny_cfg, train_data, meta_data)
    train(expected, tmp_path, 1)
    theta = trainer.meta_step.learner.theta
    assert theta.abs().max() > 0 and torch.equal(theta, expected.meta_step.learner.theta)
    assert str(trainer.meta_step.state_dict()) == str(expected.meta_step.state_dict())
