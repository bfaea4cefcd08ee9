"""Wrong choices and caches of something else are errors that say so."""

import pytest
import torch

from balms_det.classifier import open_source, train_once
from balms_det.classifier.run import pair_with_seeds
from balms_det.features import FeatureCache


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
