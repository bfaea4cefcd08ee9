"""NaN and infinity in features, logits, losses and gradients: named at once, or left out."""

import copy
import itertools

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from balms_det.engine.freeze import freeze_all_but
from balms_det.engine.meta_trainer import MetaStepTrainer, build_meta_step
from balms_det.engine.non_finite import NonFiniteGuard, NonFiniteStepError, build_non_finite_guard
from balms_det.engine.saved_batch import load_batch
from balms_det.engine.step_seed import SeedEveryStep
from tests.modeling.conftest import batch, tiny_cfg  # noqa: F401

NAMES = ["ant", "bee", "cat", "dog", "<b>elk</b>\n"]
NAN, INF = float("nan"), float("inf")


class ScaledTrainer(SimpleTrainer):
    """Detectron2's AMPTrainer without autocast, which it has on CUDA alone."""

    def __init__(self, *args, scale):
        super().__init__(*args)
        self.grad_scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def run_step(self):
        losses = self.model(next(self._data_loader_iter))
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self._write_metrics(losses, 0.0)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()


class At(HookBase):
    """Changes the model for the time of some iterations: ``change`` returns what undoes it."""

    def __init__(self, iterations, change):
        self.iterations, self.change = iterations, change

    def before_step(self):
        self.undo = self.change() if self.trainer.iter in self.iterations else lambda: None

    def after_step(self):
        self.undo()


def with_ids(data):
    return [{**copy.deepcopy(record), "image_id": 70 + i} for i, record in enumerate(data)]


def make_trainer(cfg, data, kind=SimpleTrainer, **kwargs):
    torch.manual_seed(1)
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    return kind(model, itertools.repeat(with_ids(data)), optimizer, **kwargs)


def train(trainer, folder, steps=4, hooks=(), **kwargs):
    guard = NonFiniteGuard(folder, NAMES, **kwargs)
    trainer.register_hooks([SeedEveryStep(3), guard, *hooks])
    trainer.train(0, steps)
    return guard


def spoil(module, value, index=...):
    """Makes ``index`` of a module's output ``value``."""

    def change():
        def hook(_, __, output):
            output = output.clone()
            output[index] = value
            return output

        return module.register_forward_hook(hook).remove

    return change


def fails(trainer, folder, iteration, change, **kwargs):
    """The message of a run that goes wrong in an iteration, and the batch that it saves."""
    weights = None

    def remember_and_change():
        nonlocal weights
        weights = copy.deepcopy(trainer.model.state_dict())
        return change()

    with pytest.raises(NonFiniteStepError) as error:
        train(trainer, folder, hooks=[At([iteration], remember_and_change)], **kwargs)
    parameters = dict(trainer.model.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in parameters.items())
    text = str(error.value)
    assert text.startswith(f"Iteration {iteration} is not finite: ")
    saved = load_batch(folder / "non_finite" / f"iteration_{iteration:07d}_rank0.pth")
    assert saved["message"] in text and saved["iteration"] == iteration
    return text, saved


def test_nan_in_features(tiny_cfg, batch, tmp_path):  # noqa: F811
    trainer = make_trainer(tiny_cfg, batch)
    change = spoil(trainer.model.backbone.fpn_output2, NAN)
    text, saved = fails(trainer, tmp_path, 2, change)
    assert "loss_cls = nan" in text and "boxes or scores of the RPN" in text
    assert "Images: 70, 71." in text and "Worst class: " in text
    (inputs,) = saved["inputs"]
    assert [record["image_id"] for record in inputs] == [70, 71]
    for record, original in zip(inputs, batch):
        assert torch.equal(record["image"], original["image"])
        mine, its = record["instances"], original["instances"]
        assert torch.equal(mine.gt_boxes.tensor, its.gt_boxes.tensor)
        assert torch.equal(mine.gt_masks.tensor, its.gt_masks.tensor)
        assert mine.image_size == its.image_size


@pytest.mark.parametrize("value", [NAN, -INF])
def test_the_class_whose_logit_is_not_finite(tiny_cfg, batch, tmp_path, value):  # noqa: F811
    trainer = make_trainer(tiny_cfg, batch)
    change = spoil(trainer.model.roi_heads.box_predictor.cls_score, value, (slice(0, 3), 4))
    text, _ = fails(trainer, tmp_path, 1, change)
    assert "logits of the box classifier" in text and "the RPN" not in text
    assert "Worst class: <b>elk</b>\\n (label 4), with 3 of " in text


def test_a_loss_alone(tiny_cfg, batch, tmp_path):  # noqa: F811
    trainer = make_trainer(tiny_cfg, batch)
    change = spoil(trainer.model.roi_heads.box_predictor.bbox_pred, INF)
    text, saved = fails(trainer, tmp_path, 0, change)
    assert "loss_box_reg = " in text and "loss_cls = " not in text
    assert saved["losses"]["loss_cls"] > 0 and "with the largest logit" in text


def test_one_score_of_the_rpn_that_no_loss_has_looked_at(tiny_cfg, batch, tmp_path):  # noqa: F811
    tiny_cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 1
    trainer = make_trainer(tiny_cfg, batch)
    change = spoil(trainer.model.proposal_generator.rpn_head.objectness_logits, INF, (0, 0, 0, 0))
    text, saved = fails(trainer, tmp_path, 1, change)
    assert "not finite: boxes or scores of the RPN. " in text
    assert torch.tensor(list(saved["losses"].values())).isfinite().all()


def test_a_gradient_behind_finite_losses(tiny_cfg, batch, tmp_path):  # noqa: F811
    trainer = make_trainer(tiny_cfg, batch)
    weight = trainer.model.roi_heads.box_predictor.cls_score.weight
    rows = torch.zeros_like(weight).index_fill(0, torch.tensor([1]), NAN)
    text, _ = fails(trainer, tmp_path, 1, lambda: weight.register_hook(lambda g: g + rows).remove)
    assert "not finite: gradient of roi_heads.box_predictor.cls_score.weight. " in text
    assert "Worst class: bee (label 1), whose gradient is not finite" in text


def test_a_cascade_that_predicts_nan(tiny_cfg, batch, tmp_path):  # noqa: F811
    tiny_cfg.MODEL.ROI_HEADS.NAME = "LongTailCascadeROIHeads"
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    trainer = make_trainer(tiny_cfg, batch)
    text, _ = fails(trainer, tmp_path, 1, spoil(trainer.model.backbone.fpn_output2, NAN))
    assert "contains infinite or NaN" in text and "Images: 70, 71." in text


def test_a_good_run_is_the_same_with_the_guard(tiny_cfg, batch, tmp_path):  # noqa: F811
    def logged_run(*guards):
        trainer, values = make_trainer(tiny_cfg, batch), []

        class Log(HookBase):
            def after_step(self):
                latest = self.trainer.storage.latest()
                values.append({k: v for k, (v, _) in latest.items() if "time" not in k})

        trainer.register_hooks([SeedEveryStep(3), *guards, Log()])
        trainer.train(0, 2)
        assert not {"run_step", "_write_metrics"} & vars(trainer).keys()
        return trainer.model.state_dict(), values

    plain, plain_values = logged_run()
    for skip in (False, True):
        guarded, values = logged_run(NonFiniteGuard(tmp_path, NAMES, skip=skip))
        assert values == plain_values
        assert all(torch.equal(plain[name], value) for name, value in guarded.items())
    assert not (tmp_path / "non_finite").exists()


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


def test_a_disk_that_is_full_does_not_hide_the_error(tiny_cfg, batch, tmp_path):  # noqa: F811
    (tmp_path / "non_finite").write_text("a file where the folder should be")
    trainer = make_trainer(tiny_cfg, batch)
    change = spoil(trainer.model.roi_heads.box_predictor.cls_score, NAN)
    with pytest.raises(NonFiniteStepError, match=r"loss_cls = nan.* could not be saved in "):
        train(trainer, tmp_path, hooks=[At([0], change)])


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


def meta_trainer(cfg, train_data, meta_data):
    cfg.META.NAME, cfg.META.LR = "MetaReweighter", 0.01
    torch.manual_seed(1)
    model = freeze_all_but(build_model(cfg), ["cls_score"])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    loaders = [itertools.cycle(data) for data in (train_data, meta_data)]
    return MetaStepTrainer(model, loaders[0], optimizer, loaders[1], build_meta_step(cfg))


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


class CountTransfers(TorchFunctionMode):
    """Counts what would make the host wait for a GPU."""

    WAITS = {"tolist", "item", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__"}

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += getattr(function, "__name__", "") in self.WAITS
        return function(*args, **(kwargs or {}))


def test_the_host_waits_once(tiny_cfg, batch, tmp_path):  # noqa: F811
    trainer = make_trainer(tiny_cfg, batch)
    counts = []

    class Count(HookBase):
        def before_train(self):
            look = guard._look

            def counted(losses):
                with CountTransfers() as transfers:
                    found = look(losses)
                counts.append(transfers.count)
                return found

            guard._look = counted

    guard = NonFiniteGuard(tmp_path)
    trainer.register_hooks([guard, Count()])
    trainer.train(0, 1)
    assert counts == [1]


def test_the_config_chooses(tiny_cfg):  # noqa: F811
    assert not build_non_finite_guard(tiny_cfg).skip
    tiny_cfg.SOLVER.NON_FINITE.ACTION = "skip"
    tiny_cfg.SOLVER.NON_FINITE.MAX_IN_A_ROW = 3
    guard = build_non_finite_guard(tiny_cfg)
    assert guard.skip and guard.max_in_a_row == 3
    tiny_cfg.SOLVER.NON_FINITE.ACTION = "ignore"
    with pytest.raises(ValueError, match=r"NON_FINITE\.ACTION must be one of stop, skip"):
        build_non_finite_guard(tiny_cfg)


def run_rank(rank, folder, cfg, data):
    """Rank 1 has NaN in its features in iteration 1, rank 0 never."""
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    dist.barrier()
    comm.create_local_process_group(2)
    found = {}
    for skip in (True, False):
        trainer = make_trainer(cfg, data)
        detector = trainer.model
        trainer.model = DistributedDataParallel(detector, broadcast_buffers=False)
        hooks = [At([1] if rank else [], spoil(detector.backbone.fpn_output2, NAN))]
        try:
            guard = train(trainer, folder, 3, hooks, skip=skip)
            found["skipped"] = guard.skipped
            found["weight"] = detector.roi_heads.box_predictor.cls_score.weight.detach()
        except NonFiniteStepError as error:
            found["error"] = str(error)
    torch.save(found, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_decide_alike(tiny_cfg, batch, tmp_path):  # noqa: F811
    tiny_cfg.MODEL.RESNETS.NORM = "FrozenBN"
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "SeesawLoss"  # has state that the ranks share
    multiprocessing.spawn(run_rank, (str(tmp_path), tiny_cfg, batch), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2))
    assert one["skipped"] == other["skipped"] == 1
    assert torch.equal(one["weight"], other["weight"]) and one["weight"].isfinite().all()
    assert all(found["error"].startswith("Iteration 1 is not finite") for found in (one, other))
    assert "a loss on another rank" in one["error"] and "loss_cls = nan" in other["error"]
    assert len(list((tmp_path / "non_finite").glob("*_rank?.pth"))) == 2
