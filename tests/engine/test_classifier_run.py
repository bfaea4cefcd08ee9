"""From caches to checkpoints: a tiny detector, its caches, and what is trained from them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from balms_det.engine import LongTailTrainer, load_cfg, load_weights
from balms_det.engine.classifier import Choices, make_recipe, open_source, train_once, train_seeds
from balms_det.engine.classifier.run import pair_with_seeds
from balms_det.engine.classifier.setup import Recipe
from balms_det.engine.classifier.sweep import (
    add_missing_losses,
    find_methods,
    make_rows,
    plan_jobs,
    run_job,
    run_jobs,
    write_winner,
)
from balms_det.engine.feature_cache import CacheOptions, FeatureCache, cache_features
from balms_det.losses import BOX_LOSS_REGISTRY
from tests.engine.conftest import CONFIGS

SOFTMAX = str(CONFIGS / "stage2_softmax.yaml")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def detector(make_cfg, tmp_path_factory):
    """Folder of a detector (drawn at random), ``stage1.pth``, and its caches."""
    root = tmp_path_factory.mktemp("detector")
    cfg = make_cfg("stage1.yaml", root, "MODEL.WEIGHTS", str(root / "stage1.pth"))
    torch.manual_seed(0)
    model = LongTailTrainer.build_model(cfg)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.2)
    torch.save({"model": model.state_dict()}, root / "stage1.pth")
    cache_features(cfg, root / "train", CacheOptions(dtype="float32", shard_images=10))
    options = CacheOptions(purpose="eval", dtype="float32", shard_images=3)
    cache_features(cfg, root / "val", options)
    return root


@pytest.fixture(scope="module")
def source(detector):
    cache = FeatureCache.open(detector / "train")
    return open_source(cache, detector / "val", device="cpu", verify=True)


@pytest.fixture
def recipe(source, small_options, tmp_path):
    def make(config=SOFTMAX, opts=(), **choices):
        choices = Choices(opts=[*small_options, *opts], **choices)
        return make_recipe(source.cache, config, choices, tmp_path)

    return make


def evaluated_by_the_detector(config):
    cfg = load_cfg(str(config))
    model = LongTailTrainer.build_model(cfg)
    load_weights(cfg, model)
    return LongTailTrainer.test(cfg, model)["bbox"]


@pytest.mark.parametrize(
    "choices",
    [
        {"loss": "BalancedSoftmaxLoss", "loss_args": ["tau", "0.5"]},
        {"loss": "SeesawLoss", "sampler": "SquareRootSampler"},  # K + 2 outputs, cosine, state
        {"meta": "MetaReweighter", "loss": "BalancedSigmoidLoss"},
        {"method": "LWS"},
    ],
    ids=lambda choices: "-".join(v for v in choices.values() if isinstance(v, str)),
)
def test_the_detector_finds_what_the_cache_said(source, recipe, tmp_path, choices):
    val = str(source.evaluation.cache.folder)
    row = train_seeds(recipe(**choices), [source.cache], [val], tmp_path, "m")
    folder = tmp_path / "seed0"
    found = evaluated_by_the_detector(folder / "config.yaml")
    own = json.loads((folder / "results.json").read_text())["bbox"]
    for metric in ("AP", "APr", "APc", "APf"):
        assert row.values[metric][0] == own[metric]
        if own[metric] is not None:
            assert found[metric] == own[metric]
    assert own["AP"] is not None
    trainee, _ = train_once(recipe(**choices).run(source.cache, 0, tmp_path), source)
    assert detections_from_cache(source, trainee) == detections_of_the_detector(folder)


def detections_of_the_detector(folder):
    found = json.loads((folder / "inference" / "lvis_instances_results.json").read_text())
    assert len(found) == 4 * 20
    return sorted((d["image_id"], d["category_id"], d["score"]) for d in found)


def detections_from_cache(source, trainee):
    return sorted(
        (image_id, label + 1, score)
        for image_id, found in source.evaluation.detections(trainee.predictors)
        for label, score in zip(found.pred_classes.tolist(), found.scores.tolist())
    )


def test_only_the_classifier_differs_from_stage_1(source, recipe, detector, tmp_path):
    train_seeds(recipe(loss="EQLv2Loss"), [source.cache], [""], tmp_path, "EQLv2")
    before = torch.load(detector / "stage1.pth", weights_only=True)["model"]
    after = torch.load(tmp_path / "seed0" / "model_final.pth", weights_only=True)["model"]
    moved = {n for n, v in after.items() if n not in before or not torch.equal(v, before[n])}
    assert moved and all("cls_score" in name or "cls_loss" in name for name in moved)
    assert any("cls_loss" in name for name in moved)  # its running state


def test_the_same_seed_gives_the_same_bits(source, recipe, tmp_path):
    own = recipe(loss="DropLoss", meta="MetaSampler", sampler="MetaTrainingSampler")
    states = [
        train_once(own.run(source.cache, seed, tmp_path), source)[0].model.state_dict()
        for seed in (1, 1, 2)
    ]
    name = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


def test_without_a_config_it_is_the_detectors(source, small_options, detector, tmp_path):
    choices = Choices(loss="FocalLoss", iterations=3, lr=0.01, batch=32, opts=small_options)
    own = make_recipe(source.cache, "", choices, tmp_path).run(source.cache, 0, tmp_path)
    trainee, outcome = train_once(own, source)
    assert outcome.losses[-1][0] == 3 and trainee.cfg.SOLVER.IMS_PER_BATCH == 1
    assert str(detector / "stage1.pth") == trainee.cfg.MODEL.WEIGHTS
    assert own.config_file == str(tmp_path / "detector.yaml")


def test_crt_starts_anew(source, recipe, tmp_path):
    def weight(**choices):
        own = recipe(lr=1e-12, **choices).run(source.cache, 0, tmp_path)
        return train_once(own, source)[0].predictors[0].cls_score.weight.detach()

    assert weight(method="CRT").std() < 0.05 < 0.1 < weight().std()


def test_tau_norm_needs_no_training(source, recipe, tmp_path):
    tau = ["CLASSIFIER.ARGS.TAU", "1.0"]
    own = recipe(method="TauNorm", opts=tau).run(source.cache, 0, tmp_path)
    trainee, outcome = train_once(own, source)
    norms = trainee.predictors[0].cls_score.weight.detach().norm(dim=1)
    assert norms[:-1].tolist() == pytest.approx([1.0] * 6, abs=1e-5) and norms[-1] > 2
    assert outcome.losses == []


def test_lws_scales_classes_alone(source, recipe, detector, tmp_path):
    own = recipe(method="LWS", lr=0.01).run(source.cache, 0, tmp_path)
    after = train_once(own, source)[0].predictors[0].cls_score
    before = torch.load(detector / "stage1.pth", weights_only=True)["model"]
    before = before["roi_heads.box_predictor.cls_score.weight"]
    assert torch.equal(after.weight[-1], before[-1]) and type(after) is torch.nn.Linear
    ratio = after.weight / before
    assert (ratio.amax(dim=1) - ratio.amin(dim=1)).abs().max() < 1e-4
    assert (ratio[:-1] - 1).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("choices", "error"),
    [
        ({"loss": "NoLoss"}, "Unknown box loss 'NoLoss'"),
        ({"loss": "EQLLoss", "loss_args": ["NO", "1"]}, "EQLLoss takes no no"),
        ({"loss": "EQLLoss", "loss_args": ["LAMBDA_"]}, "KEY VALUE pairs"),
        ({"method": "NoMethod"}, "Unknown method 'NoMethod'.*CRT, LWS, Plain, TauNorm"),
        ({"opts": ["CLASSIFIER.ARGS.TAU", "1"]}, "Plain takes no tau"),
        ({"sampler": "NoSampler"}, "Unknown sampler 'NoSampler'"),
        ({"meta": "NoLearner"}, "Unknown meta learner"),
        ({"method": "LWS", "meta": "MetaSampler"}, "LWS does not go with a meta learner"),
        ({"method": "LWS", "loss": "SeesawLoss"}, "SeesawLoss has a"),
        ({"method": "TauNorm", "loss": "SeesawLoss"}, "SeesawLoss makes its scores"),
        ({"batch": 33}, "33 is no multiple"),
        ({"opts": ["MODEL.DECOUPLED.TRAIN_ONLY", "['box_predictor']"]}, "the classifier alone"),
        (
            {"opts": ["MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads"]},
            "stage 2 freezes",
        ),
        ({"opts": ["MODEL.WEIGHTS", "nothing.pth"]}, "no file 'nothing.pth'"),
        ({"meta": "MetaSampler", "opts": ["META.DATASETS", "('icons_lt_val',)"]}, "META.DATASETS"),
    ],
)
def test_bad_input_is_named(source, recipe, tmp_path, choices, error):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=error):
        train_once(recipe(**choices).run(source.cache, 0, tmp_path), source)


def test_caches_are_checked(source, recipe, detector, tmp_path):
    val = FeatureCache.open(detector / "val")
    with pytest.raises(ValueError, match="is for evaluation, and one for training is needed"):
        open_source(val, "", device="cpu", verify=False)
    with pytest.raises(ValueError, match="is for training, and one for evaluation is needed"):
        open_source(source.cache, detector / "train", device="cpu", verify=False)
    other = torch.load(detector / "stage1.pth", weights_only=True)
    other["model"]["roi_heads.box_predictor.cls_score.bias"] += 1
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"another model than .*other\.pth"):
        own = recipe(opts=["MODEL.WEIGHTS", str(tmp_path / "other.pth")])
        train_once(own.run(source.cache, 0, tmp_path), source)


def test_caches_are_paired_with_seeds():
    assert pair_with_seeds(["a"], 3, "cache") == ["a"] * 3
    assert pair_with_seeds([], 2, "cache") == ["", ""]
    assert pair_with_seeds(["a", "b"], 2, "cache") == ["a", "b"]
    with pytest.raises(ValueError, match="at least one seed, got 0"):
        pair_with_seeds(["a"], 0, "cache")
    with pytest.raises(ValueError, match="one cache for all seeds, or 3, got 2"):
        pair_with_seeds(["a", "b"], 3, "cache")


@pytest.fixture
def jobs(source, small_options, detector, tmp_path):
    configs = [Path(SOFTMAX), CONFIGS / "losses" / "focal.yaml"]
    methods = find_methods(configs, source.cache, Choices(opts=small_options), tmp_path)
    bad = Choices(loss="NoLoss", opts=small_options)
    methods["bad"] = make_recipe(source.cache, SOFTMAX, bad, tmp_path)
    val = str(detector / "val")
    return plan_jobs(methods, [source.cache] * 2, [val] * 2, tmp_path)


def test_a_sweep_reports_failures_and_writes_the_winner(jobs, tmp_path):
    told = []
    results, failures = run_jobs(jobs, 2, lambda job, result: told.append((job.label, result)))
    assert len(results) == 4 and len(told) == 6
    assert [(f.label, f.seed) for f in failures] == [("bad", 0), ("bad", 1)]
    assert "Unknown box loss 'NoLoss'" in failures[0].error
    rows = make_rows(jobs, results)
    assert rows[-1].label == "bad" and rows[-1].values["AP"] == [None, None]
    config = write_winner(jobs, rows, tmp_path, "AP")
    assert evaluated_by_the_detector(config)["AP"] == rows[0].values["AP"][0]


def test_finished_jobs_are_not_repeated(jobs):
    first = run_job(jobs[0])
    stamp = (Path(jobs[0].out) / "classifier.pth").stat().st_mtime_ns
    assert run_job(jobs[0]) == first
    assert (Path(jobs[0].out) / "classifier.pth").stat().st_mtime_ns == stamp
    job = jobs[0]
    longer = Recipe(job.recipe.config_file, (*job.recipe.opts, "SOLVER.MAX_ITER", "5"))
    again = run_job(type(job)(**{**vars(job), "recipe": longer}))
    assert again["inputs"] != first["inputs"] and again["losses"][-1][0] == 5


def test_all_losses_are_swept(source, small_options, tmp_path):
    choices = Choices(opts=small_options)
    methods = find_methods([Path(SOFTMAX)], source.cache, choices, tmp_path)
    add_missing_losses(methods, Path(SOFTMAX), source.cache, choices, tmp_path)
    names = {m.load().MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME for m in methods.values()}
    assert names == {name for name, _ in BOX_LOSS_REGISTRY}
    with pytest.raises(ValueError, match="another method of that name"):
        find_methods([Path(SOFTMAX)] * 2, source.cache, choices, tmp_path)


@pytest.mark.slow
def test_command_lines(detector, small_options, tmp_path):
    def run(tool, *words):
        command = [sys.executable, f"tools/{tool}.py", "--cache", str(detector / "train")]
        command += ["--eval-cache", str(detector / "val"), "--out", str(tmp_path), *words]
        return subprocess.run(
            [*command, "--", *small_options], cwd=ROOT, capture_output=True, text=True
        )

    config = ("--config-file", SOFTMAX)
    done = run("train_classifier", *config, "--loss", "FocalLoss", "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert "| FocalLoss |" in done.stdout and (tmp_path / "seed1" / "model_final.pth").exists()
    failed = run("train_classifier", *config, "--loss", "FocalLoss", "--seeds", "0")
    assert failed.returncode == 1 and "error: there must be at least one seed" in failed.stderr
    swept = run("sweep", "--methods", str(CONFIGS / "losses" / "focal.yaml"), "--seeds", "1")
    assert swept.returncode == 0, swept.stderr
    assert "| focal" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "methods.png").exists() and (tmp_path / "winner" / "config.yaml").exists()
