"""The meta step inside the detector's training loop, without a dataset."""

import copy
import itertools

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from balms_det.engine.meta_trainer import MetaStepTrainer, build_meta_step
from balms_det.engine.trainer import freeze_all_but
from tests.modeling.conftest import batch, tiny_cfg  # noqa: F401
from tests.versions import needs_torch


@pytest.fixture(params=["LongTailROIHeads", "LongTailCascadeROIHeads"])
def meta_cfg(tiny_cfg, request):  # noqa: F811
    tiny_cfg.MODEL.ROI_HEADS.NAME = request.param
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in request.param
    tiny_cfg.META.NAME = "MetaReweighter"
    tiny_cfg.META.LR = 0.01
    return tiny_cfg


def make_trainer(cfg, data, meta_data=None, lr=0.05, train_only=("cls_score",), **kwargs):
    torch.manual_seed(1)
    model = freeze_all_but(build_model(cfg), list(train_only))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=1e-4)
    loaders = [itertools.repeat(copy.deepcopy(d)) for d in (data, meta_data or data)]
    return MetaStepTrainer(model, loaders[0], optimizer, loaders[1], build_meta_step(cfg), **kwargs)


def run(trainer, steps=1):
    logged = []
    with EventStorage() as storage:
        for step in range(steps):
            torch.manual_seed(step)
            trainer.iter = step
            trainer.run_step()
            logged.append({name: value for name, (value, _) in storage.latest().items()})
            storage.step()
    return logged


def classifiers(trainer):
    return [copy.deepcopy(p.cls_score.state_dict()) for p in trainer.predictors]


def test_the_learner_and_only_the_classifier_move(meta_cfg, batch):  # noqa: F811
    trainer = make_trainer(meta_cfg, batch)
    before = copy.deepcopy(trainer.model.state_dict())
    logged = run(trainer, 3)
    after = trainer.model.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved and all("cls_score" in name for name in moved)
    assert len(moved) == 2 * len(trainer.predictors)
    assert trainer.meta_step.learner.theta.abs().max() > 0
    names = {"meta_loss", "total_loss", "loss_rpn_cls"}
    assert names <= set(logged[-1]) and any(name.startswith("loss_cls") for name in logged[-1])


def test_with_a_still_learner_it_is_the_step_of_the_plain_trainer(meta_cfg, batch):  # noqa: F811
    meta_cfg.META.LR = 0.0
    trainer = make_trainer(meta_cfg, batch)
    model, optimizer = copy.deepcopy(trainer.model), trainer.optimizer
    plain = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    plain.load_state_dict(optimizer.state_dict())
    with EventStorage():
        torch.manual_seed(0)
        model(batch)  # the meta batch's forward pass comes first
        losses = model(batch)
        sum(losses.values()).backward()
        plain.step()
    (logged,) = run(trainer)
    for name, value in losses.items():
        assert logged[name] == pytest.approx(float(value.detach()), rel=1e-5), name
    for mine, its in zip(trainer.model.state_dict().values(), model.state_dict().values()):
        torch.testing.assert_close(mine, its)


def test_other_parts_may_train_too(meta_cfg, batch):  # noqa: F811
    trainer = make_trainer(meta_cfg, batch, train_only=("roi_heads",))
    before = copy.deepcopy(trainer.model.roi_heads.box_head.state_dict())
    run(trainer)
    after = trainer.model.roi_heads.box_head.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_state_is_complete(meta_cfg, batch):  # noqa: F811
    meta_cfg.META.NAME = "MetaSampler"
    straight = make_trainer(meta_cfg, batch)
    run(straight, 2)
    saved = copy.deepcopy([straight.model.state_dict(), straight.state_dict()])
    run(straight, 2)
    resumed = make_trainer(meta_cfg, batch)
    resumed.model.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    run(resumed, 2)
    learners = [trainer.meta_step.learner.theta for trainer in (straight, resumed)]
    assert torch.equal(*learners) and learners[0].abs().max() > 0
    pairs = zip(straight.model.state_dict().values(), resumed.model.state_dict().values())
    assert all(torch.equal(mine, its) for mine, its in pairs)


def without_objects(data):
    data = copy.deepcopy(data)
    for record in data:
        record["instances"] = record["instances"][:0]
    return data


def test_batches_without_foreground_teach_nothing(meta_cfg, batch):  # noqa: F811
    trainer = make_trainer(meta_cfg, without_objects(batch))
    run(trainer)
    assert trainer.meta_step.learner.theta.tolist() == [0.0] * meta_cfg.MODEL.ROI_HEADS.NUM_CLASSES


def test_learning_rate_0_moves_nothing(meta_cfg, batch):  # noqa: F811
    trainer = make_trainer(meta_cfg, batch, lr=0.0)
    before = classifiers(trainer)
    run(trainer)
    assert trainer.meta_step.learner.theta.abs().max() == 0
    for old, new in zip(before, classifiers(trainer)):
        assert all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize("where", ["training", "meta"])
def test_nan_stops_before_the_classifier_moves(meta_cfg, batch, where):  # noqa: F811
    trainer = make_trainer(meta_cfg, batch)
    before = classifiers(trainer)
    calls = itertools.count()
    poisoned = 1 if where == "training" else 0  # the meta batch goes first

    def poison(head, inputs, output):
        return output * float("nan") if next(calls) == poisoned else output

    # The last stage's features alone: from earlier ones NaN boxes would reach Detectron2's check.
    heads = [m for m in trainer.model.modules() if type(m).__name__ == "FastRCNNConvFCHead"]
    heads[-1].register_forward_hook(poison)
    with pytest.raises(FloatingPointError, match=r"NaN|nan"):
        run(trainer)
    for old, new in zip(before, classifiers(trainer)):
        assert all(torch.equal(old[name], new[name]) for name in old)


@needs_torch(2, 3, "nms takes no half precision under the autocast of the CPU")
def test_bfloat16_autocast(meta_cfg, batch):  # noqa: F811
    full, half = make_trainer(meta_cfg, batch), make_trainer(meta_cfg, batch)
    half.amp_dtype = torch.bfloat16
    run(full), run(half)
    assert half.meta_step.learner.theta.dtype == torch.float32
    moved = half.meta_step.learner.theta.detach().abs()
    assert moved.isfinite().all() and moved.max() > 0


@needs_torch(2, 3, "nms takes no half precision under the autocast of the CPU")
def test_under_autocast_all_that_trains_has_a_gradient(meta_cfg, batch):  # noqa: F811
    """Though the meta batch has gone through the same weights without a graph before."""
    trainer = make_trainer(meta_cfg, batch, train_only=("roi_heads",), amp_dtype=torch.bfloat16)
    run(trainer)
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    assert trained and all(parameter.grad is not None for parameter in trained)


def test_gradient_clipping_is_refused(meta_cfg, batch):  # noqa: F811
    class SGDWithGradientClip(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)

    trainer = make_trainer(meta_cfg, batch)
    clipped = SGDWithGradientClip(trainer.model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="CLIP_GRADIENTS"):
        MetaStepTrainer(trainer.model, [], clipped, [], trainer.meta_step)


def test_a_checkpoint_without_learner_is_an_error(meta_cfg, batch):  # noqa: F811
    trainer = make_trainer(meta_cfg, batch)
    state = trainer.state_dict()
    del state["meta_step"]
    with pytest.raises(KeyError, match="no meta learner"):
        trainer.load_state_dict(state)
