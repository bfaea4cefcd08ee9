"""Feature caches: unfinished, damaged, of another version, or of something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from balms_det.features import FeatureCache, FeatureCacheError
from balms_det.features.manifest import ClassCounts, Manifest, Settings, Source
from balms_det.features.shards import Span, describe_shard, write_shard
from tests.bad_input.case import Case

SHARD = "shard-00000.safetensors"


def make(folder: Path) -> Path:
    """A cache of two images and two classes with one RoI each."""
    folder = folder / "cache"
    folder.mkdir()
    settings = {
        "purpose": "train",
        "weights_sha256": "w",
        "model_sha256": "m",
        "datasets": (Source(name="mine", sha256="d"),),
        "num_images": 2,
        "images_sha256": "i",
        "num_classes": 2,
        "class_names": ("owl", "bee"),
        "views": 1,
        "augmented": False,
        "background": -1,
        "seed": 0,
        "dtype": "float32",
        "shard_images": 2,
    }
    digest = Settings(**settings).digest()
    columns = {"0/features": torch.zeros(2, 4), "0/gt_classes": torch.zeros(2, dtype=torch.int32)}
    entry = write_shard(folder, Span(0, 0, 0, 2), digest, columns, [(1.0, 2.0)])
    counts = ClassCounts(
        image_count=(1, 1), instance_count=(1, 1), num_images=2, frequency=("r", "r")
    )
    Manifest(
        **settings,
        config="",
        class_counts=counts,
        image_ids=(1, 2),
        feature_dim=4,
        shards=(entry,),
    ).write(folder)
    return folder


def damaged(name: str, damage: Callable[[bytes], bytes | None]) -> Callable[[Path], Any]:
    """Open a cache one of whose files has changed, or is gone."""

    def run(folder: Path) -> Any:
        path = make(folder) / name
        content = damage(path.read_bytes())
        path.unlink() if content is None else path.write_bytes(content)
        return FeatureCache.open(path.parent)

    return run


def manifest(**changes: Any) -> Callable[[Path], Any]:
    def damage(content: bytes) -> bytes:
        return json.dumps({**json.loads(content), **changes}).encode()

    return damaged("manifest.json", damage)


def opened(use: Callable[[FeatureCache], Any]) -> Callable[[Path], Any]:
    return lambda folder: use(FeatureCache.open(make(folder)))


def _other_settings(folder: Path) -> Any:
    return describe_shard(make(folder) / SHARD, "other")


def _bad(name: str, run: Callable[[Path], Any], *words: str) -> Case:
    return Case(name, run, FeatureCacheError, words)


AGAIN = "tools/cache_features.py"
CASES = [
    _bad("no folder", lambda f: FeatureCache.open(f / "no"), "no: there is no such folder", AGAIN),
    _bad("a file", lambda f: FeatureCache.open(Path(__file__)), "feature_caches.py", AGAIN),
    _bad("an empty folder", FeatureCache.open, "no feature cache", "manifest.json"),
    _bad("unfinished", damaged("manifest.json", lambda c: None), "not finished", AGAIN),
    _bad("manifest empty", damaged("manifest.json", lambda c: b""), "manifest.json", "damaged"),
    _bad("manifest cut off", damaged("manifest.json", lambda c: c[:99]), "damaged", AGAIN),
    _bad("manifest binary", damaged("manifest.json", lambda c: b"\xff\0"), "damaged", AGAIN),
    _bad("manifest too deep", damaged("manifest.json", lambda c: b'{"a":' * 99999), "damaged"),
    _bad("manifest a list", damaged("manifest.json", lambda c: b"[]"), "damaged"),
    _bad("manifest of something else", manifest(format="x"), "not the manifest of a feature cache"),
    _bad("another version", manifest(version=99), "version 99", "reads version 1", AGAIN),
    _bad("classes a text", manifest(num_classes="two"), "damaged", "num_classes"),
    _bad("no shards", manifest(shards=[]), "no shard", "make it again"),
    _bad("shard gone", damaged(SHARD, lambda c: None), SHARD, "missing", AGAIN),
    _bad("shard cut off", damaged(SHARD, lambda c: c[:-1]), SHARD, "bytes", AGAIN),
    _bad("shard changed", damaged(SHARD, lambda c: c[:-1] + b"x"), SHARD, "checksum", AGAIN),
    _bad("shard of other settings", _other_settings, SHARD, "another model", "delete"),
    _bad("for training", opened(lambda c: c.check_purpose("eval")), "evaluation", "--purpose eval"),
    _bad("of fewer classes", opened(lambda c: c.check_classes(3)), "2 classes", "3"),
    _bad(
        "of other classes", opened(lambda c: c.check_classes(2, ["owl", "emu"])), "'bee'", "'emu'"
    ),
]
