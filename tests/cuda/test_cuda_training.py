"""Whole trainings on a GPU, on the tiny dataset: both stages, AMP, meta learners, resume."""

import json
from pathlib import Path

import pytest
import torch

from balms_det.engine import LongTailTrainer, load_weights
from balms_det.engine.run_record import write_run_record
from tests.cuda.gpu import needs_cuda
from tests.engine.test_train import train
from tests.soak.folders import differences

pytestmark = needs_cuda

GPU = ("MODEL.DEVICE", "cuda")
AMP = ("SOLVER.AMP.ENABLED", "True")
# The scaler of AMP starts so high that it leaves the first steps out.
LONG = ("SOLVER.MAX_ITER", "12", "SOLVER.CHECKPOINT_PERIOD", "6")
META = ("SOLVER.CLIP_GRADIENTS.ENABLED", "False", "META.NAME")
SAMPLER = ("DATALOADER.SAMPLER_TRAIN", "MetaTrainingSampler")


def weights_in(folder, name="model_final.pth"):
    return torch.load(folder / name, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module", params=[(), AMP], ids=["float32", "amp"])
def stage1(make_cfg, tmp_path_factory, request):
    """The trainer of stage 1, and its further options."""
    folder = tmp_path_factory.mktemp("stage1")
    return train(make_cfg("stage1.yaml", folder, *GPU, *LONG, *request.param)), request.param


def test_stage_1_trains_and_is_evaluated(stage1):
    folder = Path(stage1[0].cfg.OUTPUT_DIR)
    results = json.loads((folder / "results.json").read_text())
    assert {"AP", "APr", "APc", "APf"} <= results["segm"].keys() & results["bbox"].keys()
    first, last = (weights_in(folder, f"model_{n}.pth")["model"] for n in ("0000005", "final"))
    assert all(value.isfinite().all() for value in last.values())
    assert sum(not torch.equal(first[name], last[name]) for name in first) > 10
    write_run_record(stage1[0].cfg)
    assert torch.cuda.get_device_name() in (folder / "run.json").read_text()


def test_what_a_gpu_trained_is_evaluated_on_the_cpu_too(stage1, make_cfg, tmp_path):
    weights = ("MODEL.WEIGHTS", f"{stage1[0].cfg.OUTPUT_DIR}/model_final.pth")
    scores = []
    for device in ("cpu", "cuda"):
        cfg = make_cfg("stage1.yaml", tmp_path / device, *weights, "MODEL.DEVICE", device)
        model = LongTailTrainer.build_model(cfg)
        load_weights(cfg, model)
        LongTailTrainer.test(cfg, model)
        found = tmp_path / device / "inference" / "lvis_instances_results.json"
        best = sorted((d["score"] for d in json.loads(found.read_text())), reverse=True)[:20]
        scores.append(torch.tensor(best))
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("loss", "more"),
    [
        ("BalancedSoftmaxLoss", ()),
        ("SeesawLoss", ()),
        ("BalancedSigmoidLoss", (*META, "MetaReweighter")),
        ("BalancedSigmoidLoss", (*META, "MetaSampler", *SAMPLER)),
    ],
    ids=["plain", "seesaw", "reweighter", "sampler"],
)
def test_stage_2_moves_the_classifier_alone(stage1, make_cfg, tmp_path, loss, more):
    trainer, amp = stage1
    weights = ("MODEL.WEIGHTS", f"{trainer.cfg.OUTPUT_DIR}/model_final.pth")
    cls_loss = ("MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME", loss)
    options = (*weights, *GPU, *LONG, *amp, *cls_loss, *more)
    stage2 = train(make_cfg("stage2_softmax.yaml", tmp_path, *options))
    before, after = weights_in(Path(trainer.cfg.OUTPUT_DIR))["model"], weights_in(tmp_path)["model"]
    assert all(value.isfinite().all() for value in after.values())
    moved = {
        name
        for name, value in after.items()
        if name not in before or before[name].shape != value.shape or (before[name] != value).any()
    }
    assert moved and all("cls_score" in name or "cls_loss" in name for name in moved)
    assert (tmp_path / "results.json").exists()
    if "META.NAME" in more:
        theta = stage2._trainer.meta_step.learner.theta
        assert theta.isfinite().all() and theta.abs().max() > 0


@pytest.mark.parametrize("more", [(), (*META, "MetaReweighter"), (*META, "MetaSampler", *SAMPLER)])
def test_a_resumed_run_goes_on_where_it_stopped(stage1, make_cfg, tmp_path, more):
    """In stage 2, where no kernel that adds in no fixed order takes part."""
    trainer, amp = stage1
    weights = ("MODEL.WEIGHTS", f"{trainer.cfg.OUTPUT_DIR}/model_final.pth")
    options = (*weights, *GPU, *amp, *more, "DATASETS.TEST", "()")
    train(make_cfg("stage2_softmax.yaml", tmp_path / "straight", *options))
    (tmp_path / "resumed").mkdir()
    part = tmp_path / "straight" / "model_0000001.pth"
    (tmp_path / "resumed" / part.name).write_bytes(part.read_bytes())
    (tmp_path / "resumed" / "last_checkpoint").write_text(part.name)
    resumed = train(make_cfg("stage2_softmax.yaml", tmp_path / "resumed", *options), resume=True)
    assert (resumed.start_iter, resumed.iter) == (2, 4)
    one, other = weights_in(tmp_path / "straight"), weights_in(tmp_path / "resumed")
    assert differences(one, other) == []
    assert ("grad_scaler" in one["trainer"]["_trainer"]) == bool(amp or more)
