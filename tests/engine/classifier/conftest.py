"""A tiny detector, its caches, and recipes to train from them."""

import pytest
import torch

from balms_det.classifier import Choices, make_recipe, open_source
from balms_det.engine import LongTailTrainer, load_cfg, load_weights
from balms_det.features import CacheOptions, FeatureCache, cache_features
from tests.engine.conftest import CONFIGS

SOFTMAX = str(CONFIGS / "stage2_softmax.yaml")


@pytest.fixture(scope="session")
def detector(make_cfg, tmp_path_factory):
    """Folder of a detector (drawn at random), ``stage1.pth``, and its caches."""
    root = tmp_path_factory.mktemp("detector")
    make_detector(make_cfg, root)
    return root


def make_detector(make_cfg, root, *opts):
    """Put a detector and its caches in a folder; returns its config, with these options."""
    cfg = make_cfg("stage1.yaml", root, "MODEL.WEIGHTS", str(root / "stage1.pth"), *opts)
    torch.manual_seed(0)
    model = LongTailTrainer.build_model(cfg)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.03)
    torch.save({"model": model.state_dict()}, root / "stage1.pth")
    cache_features(cfg, root / "train", CacheOptions(dtype="float32", shard_images=10))
    options = CacheOptions(purpose="eval", dtype="float32", shard_images=3)
    cache_features(cfg, root / "val", options)
    return cfg


@pytest.fixture(scope="session")
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
