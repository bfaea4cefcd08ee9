"""NaN and infinity in features, logits, losses and gradients: named in their iteration."""

import copy

import pytest
import torch
from detectron2.engine import HookBase
from torch.overrides import TorchFunctionMode

from balms_det.engine.hooks import SeedEveryStep
from balms_det.engine.non_finite import NonFiniteGuard, NonFiniteStepError, build_non_finite_guard
from balms_det.engine.step_watch import load_batch
from tests.engine.non_finite_fixtures import INF, NAMES, NAN, At, make_trainer, spoil, train
from tests.modeling.conftest import batch, tiny_cfg  # noqa: F401


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


def test_a_disk_that_is_full_does_not_hide_the_error(tiny_cfg, batch, tmp_path):  # noqa: F811
    (tmp_path / "non_finite").write_text("a file where the folder should be")
    trainer = make_trainer(tiny_cfg, batch)
    change = spoil(trainer.model.roi_heads.box_predictor.cls_score, NAN)
    with pytest.raises(NonFiniteStepError, match=r"loss_cls = nan.* could not be saved in "):
        train(trainer, tmp_path, hooks=[At([0], change)])


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
