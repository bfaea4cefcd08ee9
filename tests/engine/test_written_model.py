"""What is written is loaded again and compared, before anybody is told what it is worth."""

import json
from pathlib import Path

import pytest
import torch

from balms_det.classifier import Choices, make_recipe, open_source
from balms_det.classifier import run as write_room
from balms_det.classifier.run import train_once
from balms_det.classifier.sweep import make_rows, plan_jobs, run_job, write_winner
from balms_det.engine import LongTailTrainer
from balms_det.engine.checkpoint import LongTailCheckpointer
from balms_det.engine.partial_state import state_digest
from balms_det.engine.written_model import check_written, load_written
from balms_det.features import CacheOptions, FeatureCache, cache_features
from tests.engine.conftest import CONFIGS

SOFTMAX = str(CONFIGS / "stage2_softmax.yaml")
FROZEN = ("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone")
LAYER = "backbone.bottom_up.stem.conv1.norm"


@pytest.fixture(scope="module")
def folder(make_cfg, tmp_path_factory):
    """A detector whose frozen layers have mean 5 and variance 9, and its caches."""
    root = tmp_path_factory.mktemp("frozen")
    opts = (*FROZEN, "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64")
    cfg = make_cfg("stage1.yaml", root, "MODEL.WEIGHTS", str(root / "stage1.pth"), *opts)
    torch.manual_seed(0)
    model = LongTailTrainer.build_model(cfg)
    layer = model.get_submodule(LAYER)
    layer.running_mean.fill_(5)
    layer.running_var.fill_(9)
    torch.save({"model": model.state_dict()}, root / "stage1.pth")
    cache_features(cfg, root / "train", CacheOptions(dtype="float32"))
    cache_features(cfg, root / "val", CacheOptions(purpose="eval", dtype="float32"))
    return root, opts


@pytest.fixture
def job(folder, small_options, tmp_path):
    root, opts = folder
    cache = FeatureCache.open(root / "train")
    choices = Choices(opts=[*small_options, *opts])
    methods = {"softmax": make_recipe(cache, SOFTMAX, choices, tmp_path)}
    return plan_jobs(methods, [cache], [str(root / "val")], tmp_path)[0]


def test_the_winner_on_disk_is_the_model_that_was_measured(job, tmp_path):
    result = run_job(job)
    config = write_winner([job], make_rows([job], {job: result}), tmp_path, "AP")
    model = load_written(config)
    layer = model.get_submodule(LAYER)
    assert layer.running_mean.unique().item() == 5 and layer.running_var.unique().item() == 9
    assert state_digest(model) == result["state"]


def test_a_changed_classifier_or_checkpoint_does_not_become_a_winner(job, tmp_path):
    result = run_job(job)
    path = Path(job.out) / "classifier.pth"
    state = torch.load(path)
    torch.save({name: value + 1 for name, value in state.items()}, path)
    with pytest.raises(ValueError, match="do not give the model that was measured"):
        write_winner([job], make_rows([job], {job: result}), tmp_path, "AP")
    assert not (tmp_path / "winner").exists()


def test_results_without_the_state_that_was_measured_are_made_anew(job):
    result = run_job(job)
    path = Path(job.out) / "result.json"
    path.write_text(json.dumps({k: v for k, v in result.items() if k != "state"}))
    assert run_job(job)["state"] == result["state"]


def test_a_loader_that_resets_statistics_is_noticed(job, folder, tmp_path, monkeypatch):
    source = open_source(FeatureCache.open(job.cache), job.evaluate, device="cpu", verify=False)
    trainee, outcome = train_once(job.recipe, source)
    assert outcome.state == state_digest(trainee.model)
    config = write_room.write_model(tmp_path / "m", trainee.model, job.recipe, "a test")[1]
    whole = LongTailCheckpointer._load_model

    def reset(checkpointer, checkpoint):
        found = whole(checkpointer, checkpoint)
        checkpointer.model.get_submodule(LAYER).running_mean.zero_()
        return found

    monkeypatch.setattr(LongTailCheckpointer, "_load_model", reset)
    with pytest.raises(ValueError, match=f"1 tensors differ, among them '{LAYER}.running_mean'"):
        check_written(config, trainee.model.state_dict())
