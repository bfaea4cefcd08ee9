"""A detector with random weights, and caches of its features."""

import zlib
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import build_model

from balms_det.features import CacheOptions, cache_features


@pytest.fixture(scope="session")
def detector(make_cfg, tmp_path_factory):
    """Makes a config, by options, whose ``MODEL.WEIGHTS`` are random but tell classes apart."""
    made = {}

    def detector(*options):
        if options not in made:
            folder = tmp_path_factory.mktemp("detector")
            cfg = make_cfg("stage1.yaml", folder, *options)
            torch.manual_seed(zlib.crc32(repr(options).encode()))
            model = build_model(cfg)
            with torch.no_grad():
                for name, values in model.named_parameters():
                    if "cls_score.weight" in name:
                        values.normal_(std=0.3)
                    elif "bbox_pred.weight" in name:
                        values.normal_(std=0.02)
            torch.save({"model": model.state_dict()}, folder / "model.pth")
            weights = ["MODEL.WEIGHTS", str(folder / "model.pth")]
            made[options] = make_cfg("stage1.yaml", folder, *options, *weights)
        return made[options]

    return detector


@pytest.fixture(scope="session")
def cached(detector, tmp_path_factory):
    """A finished cache of 9 training images in three shards: its config, folder and options."""
    cfg, folder = detector(), tmp_path_factory.mktemp("cached") / "cache"
    options = CacheOptions(num_images=9, shard_images=3, background=5, views=1)
    cache_features(cfg, folder, options)
    return SimpleNamespace(cfg=cfg, folder=folder, options=options)


@pytest.fixture
def contents():
    """The bytes of every file of a folder, but the lock's, by name."""

    def contents(folder):
        return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}

    return contents
