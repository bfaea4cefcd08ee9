"""Shards and manifest: whole or not there, the same whatever happened meanwhile, and checked."""

import multiprocessing
import os
import resource
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils import comm

from balms_det.data.datasets import register_files
from balms_det.features import CacheOptions, FeatureCache, FeatureCacheError, cache_features, shards
from balms_det.features import make as disk
from balms_det.features.make import sole_writer

# Not "fork": a child that is forked after OpenMP has started its threads waits for them for ever.
SPAWN = multiprocessing.get_context("spawn")


def _in_child(function, *arguments):
    """Run in a new process; its exit code."""
    child = SPAWN.Process(target=function, args=arguments)
    child.start()
    child.join(timeout=120)
    return child.exitcode


def _killed_in_second_shard(cached, folder):
    register_files(cached.cfg.DATASETS.FILES)
    save = shards.save_file

    def save_half(columns, path, metadata):
        save(columns, path, metadata)
        if (folder / "shard-00000.safetensors").exists():
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    shards.save_file = save_half
    cache_features(cached.cfg, folder, cached.options)


def test_killed_cache_has_no_false_shard_and_goes_on(cached, tmp_path, contents):
    folder = tmp_path / "cache"
    assert _in_child(_killed_in_second_shard, cached, folder) == -signal.SIGKILL
    names = {path.name for path in folder.iterdir()}
    assert {n for n in names if not n.startswith(".")} == {"shard-00000.safetensors"}
    assert any(name.startswith(".tmp-") for name in names)
    with pytest.raises(FeatureCacheError, match="not finished"):
        FeatureCache.open(folder)
    (folder / ".tmp6qotr8").write_bytes(b"half")  # as safetensors names its own
    first = (folder / "shard-00000.safetensors").stat().st_mtime_ns
    cache_features(cached.cfg, folder, cached.options)
    assert (folder / "shard-00000.safetensors").stat().st_mtime_ns == first
    assert contents(folder) == contents(cached.folder)


def _rank(rank, cached, folder, store):
    register_files(cached.cfg.DATASETS.FILES)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    comm.create_local_process_group(2)
    cache_features(cached.cfg, folder, cached.options)
    torch.distributed.destroy_process_group()


def test_two_ranks_write_the_same_cache(cached, tmp_path, contents):
    folder, store = tmp_path / "cache", tmp_path / "store"
    ranks = [SPAWN.Process(target=_rank, args=(r, cached, folder, store)) for r in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert contents(folder) == contents(cached.folder)


def test_workers_and_outputs_do_not_matter(cached, tmp_path, contents):
    cfg = cached.cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS, cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER = 2, "elsewhere", 7
    cache_features(cfg, tmp_path, cached.options)
    found, expected = contents(tmp_path), contents(cached.folder)
    assert found.pop("manifest.json") != expected.pop("manifest.json")  # it has the whole config
    assert found == expected


def _small_files_only(cached, folder, message):
    register_files(cached.cfg.DATASETS.FILES)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        cache_features(cached.cfg, folder, cached.options)
    except FeatureCacheError as error:
        message.put(str(error))


def test_failed_write_leaves_no_shard(cached, tmp_path):
    folder, message = tmp_path / "cache", SPAWN.SimpleQueue()
    assert _in_child(_small_files_only, cached, folder, message) == 0
    assert not message.empty()
    text = message.get()
    assert "shard-00000.safetensors" in text and "could not be written" in text
    assert {path.name for path in folder.iterdir()} == {".lock"}


def test_full_disk_is_refused_before_anything_is_written(cached, tmp_path, monkeypatch):
    free = SimpleNamespace(free=disk.SPARE + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(FeatureCacheError, match=r"needs about \d.* kB .*and 67\.1 MB are free"):
        cache_features(cached.cfg, tmp_path / "cache", cached.options)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_estimate_of_the_need_is_near(cached, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(disk, "MARGIN", 1e9)

    def free(path):
        asked.append(path)
        return SimpleNamespace(free=0)

    monkeypatch.setattr(shutil, "disk_usage", free)
    with pytest.raises(FeatureCacheError) as refused:
        cache_features(cached.cfg, tmp_path / "cache", cached.options)
    estimate = float(str(refused.value).split("needs about ")[1].split(" kB")[0]) * 1000
    size = sum(path.stat().st_size for path in cached.folder.glob("shard-*"))
    assert asked and 0.7 * size < estimate < 1.3 * size


def test_two_writers_do_not_meet(cached, tmp_path):
    with (
        sole_writer(tmp_path),
        pytest.raises(FeatureCacheError, match="another process is making"),
    ):
        cache_features(cached.cfg, tmp_path, cached.options)


def test_other_options_do_not_go_on_with_the_same_folder(cached, detector):
    options = replace(cached.options, background=6)
    with pytest.raises(FeatureCacheError, match=r"shard-00000.*another model, dataset or options"):
        cache_features(cached.cfg, cached.folder, options)
    with pytest.raises(FeatureCacheError, match="another model, dataset or options"):
        cache_features(detector("SEED", 4), cached.folder, cached.options)


def test_views_have_random_numbers_of_their_own(cached, detector, tmp_path):
    options = CacheOptions(num_images=2, views=2, background=5)
    cache_features(cached.cfg, tmp_path / "two", options)
    two, one = FeatureCache.open(tmp_path / "two"), FeatureCache.open(cached.folder)
    (_, first), (_, second) = two.shards()
    (_, expected), *_ = one.shards()
    rows = len(first["0/boxes"])
    for name in ("0/features", "0/boxes", "0/gt_classes", "0/image"):
        assert torch.equal(first[name], expected[name][:rows])
    assert first["0/boxes"].tolist() != second["0/boxes"].tolist()
