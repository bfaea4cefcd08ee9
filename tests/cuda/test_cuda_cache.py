"""Features that a GPU made: training from them, evaluating them, calibrating with them."""

import json

import pytest
import torch

from balms_det.classifier import Choices, make_recipe, open_source, train_seeds
from balms_det.classifier.recipe import build_trainee
from balms_det.classifier.sweep import plan_jobs, run_jobs
from balms_det.classifier.train import build_classifier_trainer
from balms_det.features import FeatureCache
from balms_det.workflows.calibrate import SearchOptions, calibrate
from tests.cuda.gpu import count_waits, needs_cuda, no_waiting
from tests.engine.classifier.conftest import SOFTMAX, evaluated_by_the_detector, make_detector

pytestmark = needs_cuda

GPU = ("MODEL.DEVICE", "cuda")


@pytest.fixture(scope="module")
def made(make_cfg, tmp_path_factory):
    """Folder of a random detector and its caches, and the detector's config."""
    root = tmp_path_factory.mktemp("detector")
    return root, make_detector(make_cfg, root, *GPU)


@pytest.fixture
def recipe(made, small_options, tmp_path):
    def make(device, **choices):
        cache = FeatureCache.open(made[0] / "train")
        opts = [*small_options, "MODEL.DEVICE", device]
        return cache, make_recipe(cache, SOFTMAX, Choices(opts=opts, **choices), tmp_path)

    return make


@pytest.mark.parametrize(
    "choices",
    [
        {"loss": "BalancedSoftmaxLoss"},
        {"loss": "SeesawLoss", "sampler": "SquareRootSampler"},
        {"loss": "BalancedSigmoidLoss", "meta": "MetaReweighter"},
        {"loss": "LOCELoss"},
        {"method": "LWS"},
        {"method": "TauNorm"},
    ],
    ids=lambda choices: "-".join(choices.values()),
)
def test_the_detector_finds_what_the_cache_said(made, recipe, tmp_path, choices):
    weights = {}
    for device in ("cpu", "cuda"):
        cache, how = recipe(device, lr=1e-6, **choices)
        out = tmp_path / device
        row = train_seeds(how, [cache], [str(made[0] / "val")], out, "m")
        found = torch.load(out / "seed0/model_final.pth", map_location="cpu", weights_only=True)
        weights[device] = found["model"]
        assert row.values["AP"][0] is not None
    own = json.loads((out / "seed0" / "results.json").read_text())["bbox"]  # of the GPU
    by_detector = evaluated_by_the_detector(out / "seed0" / "config.yaml")
    assert by_detector["AP"] == pytest.approx(own["AP"], abs=0.05)
    if choices.get("loss") == "LOCELoss":
        return  # each device has its own generator to draw from the memory
    for name, value in weights["cpu"].items():
        torch.testing.assert_close(weights["cuda"][name], value, rtol=1e-4, atol=1e-5)


def test_sweep(made, recipe, tmp_path):
    """Processes of their own that share the GPU find what one does."""
    cache, plain = recipe("cuda", lr=1e-6)
    _, balanced = recipe("cuda", lr=1e-6, loss="BalancedSoftmaxLoss")
    methods = {"plain": plain, "balanced": balanced}
    jobs = plan_jobs(methods, [cache], [str(made[0] / "val")], tmp_path)
    results, failures = run_jobs(jobs, 2, lambda job, result: None)
    assert failures == []
    row = train_seeds(balanced, [cache], [str(made[0] / "val")], tmp_path / "one", "m")
    found = {job.label: result["AP"] for job, result in results.items()}
    assert found["balanced"] == pytest.approx(row.values["AP"][0], abs=0.05)


def _trainer(recipe, tmp_path, **choices):
    cache, how = recipe("cuda", **choices)
    trainee = build_trainee(how.run(cache, 0, tmp_path).load(), cache)
    source = open_source(cache, "", device="cuda", verify=False)
    return build_classifier_trainer(trainee.cfg, trainee.predictors, source.pools)


@pytest.mark.parametrize("choices", [{}, {"loss": "LOCELoss"}, {"meta": "MetaReweighter"}], ids=str)
def test_a_step_does_not_make_the_host_wait(recipe, tmp_path, choices):
    trainer = _trainer(recipe, tmp_path, **choices)
    trainer.step()
    with no_waiting():
        trainer.step()


def test_with_the_meta_sampler_the_host_waits_once(recipe, tmp_path):
    trainer = _trainer(recipe, tmp_path, meta="MetaSampler")
    trainer.step()
    with count_waits() as waits:
        trainer.step()
    assert len(waits) == 1, waits


@pytest.mark.parametrize("name", ["FRACAL", "LogitNormalization", "NorCal"])
def test_calibrate(made, tmp_path, name):
    chosen = calibrate(made[1], tmp_path, SearchOptions(names=[name], num_images=6), bake=True)
    assert chosen.name
    assert len(json.loads((tmp_path / "scan.json").read_text())) > 0
    baked = torch.load(tmp_path / "calibrated.pth", map_location="cpu", weights_only=True)["model"]
    assert all(value.isfinite().all() for value in baked.values())
