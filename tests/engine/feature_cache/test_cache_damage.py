"""Damaged caches and wrong options are told apart, and named."""

import json
import os
import shutil

import pytest
import torch

from balms_det.features import CacheOptions, FeatureCache, FeatureCacheError, cache_features


@pytest.fixture
def copy(cached, tmp_path):
    return shutil.copytree(cached.folder, tmp_path / "copy")


def _edit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _manifest(**changes):
    def change(folder):
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


SHARD = "shard-00001.safetensors"
DAMAGES = {
    "missing shard": (lambda f: (f / SHARD).unlink(), "00001.*missing"),
    "truncated shard": (lambda f: os.truncate(f / SHARD, 1000), "00001.*1000 bytes and should"),
    "edited shard": (lambda f: _edit(f / SHARD), "00001.*checksum"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "not finished"),
    "broken manifest": (lambda f: os.truncate(f / "manifest.json", 500), "manifest is damaged"),
    "unknown version": (_manifest(version=99), "version 99"),
    "another format": (_manifest(format="pictures"), "not the manifest of a feature cache"),
    "lost key": (_manifest(shards=[{}]), "manifest is damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(copy, name):
    damage, message = DAMAGES[name]
    FeatureCache.open(copy)
    damage(copy)
    with pytest.raises(FeatureCacheError, match=message):
        FeatureCache.open(copy)


def test_without_verify_an_edit_goes_unnoticed(copy):
    _edit(copy / SHARD)
    FeatureCache.open(copy, verify=False)


def test_no_cache_at_all(tmp_path):
    with pytest.raises(FeatureCacheError, match="no such folder"):
        FeatureCache.open(tmp_path / "nothing")
    with pytest.raises(FeatureCacheError, match=r"no manifest\.json"):
        FeatureCache.open(tmp_path)


@pytest.mark.parametrize("damage", ["missing shard", "no manifest", "broken manifest"])
def test_a_second_call_repairs(cached, copy, contents, damage):
    DAMAGES[damage][0](copy)
    cache_features(cached.cfg, copy, cached.options)
    assert contents(copy) == contents(cached.folder)


def test_a_damaged_shard_is_not_taken_over(cached, copy):
    os.truncate(copy / SHARD, 1000)
    with pytest.raises(FeatureCacheError, match=r"00001.*damaged"):
        cache_features(cached.cfg, copy, cached.options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"purpose": "test"}, "'train' or 'eval'"),
        ({"dtype": "float8"}, "float16 or float32"),
        ({"views": -1}, "views must be at least 0"),
        ({"views": 2, "purpose": "eval"}, "no augmented views"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        CacheOptions(**options)


def test_features_beyond_half_precision(detector, tmp_path):
    cfg = detector().clone()
    weights = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    weights["model"]["roi_heads.box_head.fc1.weight"] *= 1e7
    torch.save(weights, tmp_path / "huge.pth")
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(tmp_path / "huge.pth")
    with pytest.raises(FeatureCacheError, match="cache in float32"):
        cache_features(cfg, tmp_path / "half", CacheOptions(num_images=1))
    cache_features(cfg, tmp_path / "full", CacheOptions(num_images=1, dtype="float32"))
