"""A tiny detector on a GPU, without data: every loss, meta trainers, and the non-finite guard."""

import copy

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from balms_det.engine.hooks import scheduled_losses
from balms_det.engine.non_finite import NonFiniteGuard, NonFiniteStepError
from balms_det.engine.step_watch import load_batch
from tests.cuda.gpu import DEVICE, count_waits, needs_cuda
from tests.engine import non_finite_fixtures as faults
from tests.engine import test_meta_trainer as meta
from tests.engine.classifier.test_classifier_training import STATS
from tests.losses.loss_fixtures import ALL_LOSSES

pytestmark = needs_cuda

HALF = [torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _counts(monkeypatch):
    monkeypatch.setattr("balms_det.modeling.box_predictor.build_class_stats", lambda cfg: STATS)


@pytest.mark.parametrize("dtype", [None, *HALF], ids=str)
@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_every_loss_trains_and_predicts(gpu_cfg, batch, loss, dtype):
    gpu_cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = loss
    torch.manual_seed(3)
    model = build_model(gpu_cfg)
    for scheduled in scheduled_losses(model):
        scheduled.set_progress(1.0)
    autocast = torch.autocast(DEVICE.type, dtype=dtype or torch.float16, enabled=bool(dtype))
    for _ in range(2):
        with EventStorage(), autocast:
            losses = model.train()(batch)
        assert losses["loss_cls"].dtype == torch.float32
        assert all(value.isfinite() for value in losses.values())
        model.zero_grad()
        sum(losses.values()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        assert gradients["roi_heads.box_predictor.cls_score.weight"].abs().max() > 0
    with torch.no_grad(), autocast:
        found = [image["instances"] for image in model.eval()(batch)]
    assert all(one.scores.isfinite().all() and one.scores.dtype == torch.float32 for one in found)


@pytest.mark.parametrize("heads", ["LongTailROIHeads", "LongTailCascadeROIHeads"])
def test_predictions_are_those_of_the_cpu(gpu_cfg, batch, heads):
    gpu_cfg.MODEL.ROI_HEADS.NAME = heads
    gpu_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in heads
    torch.manual_seed(3)
    there = build_model(gpu_cfg).eval()
    gpu_cfg.MODEL.DEVICE = "cpu"
    here = build_model(gpu_cfg).eval()
    here.load_state_dict(there.state_dict())
    with torch.no_grad():
        for ours, theirs in zip(here(batch), there(batch)):
            ours, theirs = ours["instances"], theirs["instances"]
            scores = ours.scores.sort().values, theirs.scores.cpu().sort().values
            assert len(scores[0]) > 10
            torch.testing.assert_close(scores[1], scores[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [None, *HALF], ids=str)
@pytest.mark.parametrize("learner", ["MetaReweighter", "MetaSampler"])
@pytest.mark.parametrize("heads", ["LongTailROIHeads", "LongTailCascadeROIHeads"])
def test_meta_trainer(gpu_cfg, batch, heads, learner, dtype):
    gpu_cfg.MODEL.ROI_HEADS.NAME = heads
    gpu_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in heads
    gpu_cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "BalancedSigmoidLoss"
    gpu_cfg.META.NAME, gpu_cfg.META.LR = learner, 0.01
    trainer = meta.make_trainer(gpu_cfg, batch, train_only=("roi_heads",), amp_dtype=dtype)
    logged = meta.run(trainer, 3)
    assert trainer.grad_scaler.is_enabled() == (dtype == torch.float16)
    theta = trainer.meta_step.learner.theta
    assert theta.dtype == torch.float32 and theta.isfinite().all() and theta.abs().max() > 0
    assert all(torch.isfinite(torch.tensor(list(step.values()))).all() for step in logged)
    trained = {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None] == []
    for part in (
        "cls_score",
        "bbox_pred",
        "box_head",
    ):  # the later stages may have nothing to learn
        assert any(part in name and gradient.abs().max() > 0 for name, gradient in trained.items())
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


def guarded(trainer, tmp_path, steps, **kwargs):
    """Train with a guard; how often the host waited in what is looked at and logged, by step."""
    guard, waits = NonFiniteGuard(tmp_path, faults.NAMES, **kwargs), []
    write = guard._write_metrics

    def count(*args, **kwargs):
        with count_waits() as found:
            write(*args, **kwargs)
        waits.append(len(found))

    guard._write_metrics = count
    trainer.register_hooks([guard])
    trainer.train(0, steps)
    return waits


@pytest.mark.parametrize("kind", [SimpleTrainer, AMPTrainer])
@pytest.mark.parametrize("skip", [False, True])
def test_the_guard_makes_the_host_wait_once_a_step(gpu_cfg, batch, tmp_path, kind, skip):
    trainer = faults.make_trainer(gpu_cfg, batch, kind)
    assert guarded(trainer, tmp_path, 4, skip=skip) == [1] * 4


def test_the_guard_looks_at_the_meta_loss_in_the_same_transfer(gpu_cfg, batch, tmp_path):
    trainer = faults.meta_trainer(gpu_cfg, [batch], [batch])
    write = trainer._write_meta_loss

    def count():
        with count_waits() as found:
            write()
        assert found == []

    trainer._write_meta_loss = count
    assert guarded(trainer, tmp_path, 3) == [1] * 3


@pytest.mark.parametrize("kind", [SimpleTrainer, AMPTrainer])
def test_nan_stops_the_step_it_is_in(gpu_cfg, batch, tmp_path, kind):
    trainer = faults.make_trainer(gpu_cfg, batch, kind)
    classifier = trainer.model.roi_heads.box_predictor.cls_score
    change = faults.spoil(classifier, faults.NAN, (slice(0, 3), 4))
    with pytest.raises(NonFiniteStepError, match=r"Iteration 2 is not finite.*\(label 4\)"):
        faults.train(trainer, tmp_path, hooks=[faults.At([2], change)])
    saved = load_batch(tmp_path / "non_finite" / "iteration_0000002_rank0.pth")
    (inputs,) = saved["inputs"]
    assert torch.equal(inputs[0]["image"], batch[0]["image"])
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


def test_a_step_that_is_left_out_moves_nothing(gpu_cfg, batch, tmp_path):
    gpu_cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "EQLv2Loss"
    trainer = faults.make_trainer(gpu_cfg, batch, AMPTrainer)
    before = None
    change = faults.spoil(trainer.model.roi_heads.box_predictor.cls_score, faults.NAN)

    class Compare(faults.HookBase):
        def before_step(self):
            nonlocal before
            before = copy.deepcopy(trainer.model.state_dict())

        def after_step(self):
            if trainer.iter == 2:
                after = trainer.model.state_dict()
                assert all(torch.equal(before[name], after[name]) for name in before)

    hooks = [faults.At([2], change), Compare()]
    guard = faults.train(trainer, tmp_path, hooks=hooks, skip=True)
    assert guard.skipped == 1
