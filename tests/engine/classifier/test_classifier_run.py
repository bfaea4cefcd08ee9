"""From caches to checkpoints: what is trained, and that the detector finds what the cache said."""

import json

import pytest
import torch

from balms_det.classifier import Choices, make_recipe, train_once, train_seeds
from tests.engine.classifier.conftest import evaluated_by_the_detector


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
    # A random detector's features are so large that a longer step would leave background alone.
    choices = {"lr": 1e-6, **choices}
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
    assert len(found) > 4
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

    assert weight(method="CRT").std() < 0.015 < 0.025 < weight().std()


def test_tau_norm_needs_no_training(source, recipe, tmp_path):
    tau = ["CLASSIFIER.ARGS.TAU", "1.0"]
    own = recipe(method="TauNorm", opts=tau).run(source.cache, 0, tmp_path)
    trainee, outcome = train_once(own, source)
    norms = trainee.predictors[0].cls_score.weight.detach().norm(dim=1)
    assert norms[:-1].tolist() == pytest.approx([1.0] * 6, abs=1e-5) and norms[-1] < 0.7
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
