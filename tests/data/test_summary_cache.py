"""The cache answers for one state of one file, and never gets in the way."""

import json
import os
from pathlib import Path

import pytest

from balms_det.annotations import summary as summary_cache
from balms_det.annotations.summary import SUFFIX, annotation_summary
from balms_det.utils import file_cache
from tests.data.conftest import coco_content


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Cache every file, remember nothing, and keep the user's own cache folder out of it."""
    monkeypatch.setattr(summary_cache, "MIN_CACHED_BYTES", 0)
    monkeypatch.setattr(summary_cache, "_in_memory", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return lambda: summary_cache._in_memory.clear()


def _fail(path):
    raise AssertionError(f"{path} was read again")


def test_second_process_reads_the_cache(write_dataset, fresh, monkeypatch):
    path, _ = write_dataset(coco_content())
    first = annotation_summary(path)
    fresh()
    monkeypatch.setattr(summary_cache, "summarize", _fail)
    assert annotation_summary(path) == first
    assert annotation_summary(path) is annotation_summary(path)


@pytest.mark.parametrize("how", ["size", "mtime"])
def test_changed_file_is_counted_again(write_dataset, fresh, how):
    path, _ = write_dataset(coco_content())
    assert annotation_summary(path).instance_count == [1, 3, 0]
    content = coco_content()
    if how == "size":
        del content["annotations"][0]
    else:
        content["annotations"][0]["category_id"] = 3
    status = os.stat(path)
    write_dataset(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + (how == "mtime")))
    fresh()
    expected = [1, 2, 0] if how == "size" else [2, 2, 0]
    assert annotation_summary(path).instance_count == expected


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 0}', b"\xff"])
def test_damaged_cache_is_replaced(write_dataset, fresh, content):
    path, _ = write_dataset(coco_content())
    cache = Path(path + SUFFIX)
    cache.write_bytes(content)
    assert annotation_summary(path).instance_count == [1, 3, 0]
    assert json.loads(cache.read_text())["summary"]["instance_count"] == [1, 3, 0]


def test_cache_of_a_copied_file_is_not_used(write_dataset, fresh):
    path, _ = write_dataset(coco_content())
    annotation_summary(path)
    cache = Path(path + SUFFIX)
    entry = json.loads(cache.read_text())
    entry["path"], entry["summary"]["instance_count"] = "/elsewhere.json", [9, 9, 9]
    cache.write_text(json.dumps(entry))
    fresh()
    assert annotation_summary(path).instance_count == [1, 3, 0]


def test_folder_that_cannot_be_written_falls_back_to_home(
    write_dataset, fresh, monkeypatch, tmp_path
):
    path, _ = write_dataset(coco_content())
    write = file_cache.write_atomically

    def refuse_beside(cache_path, content):
        if cache_path == path + SUFFIX:
            raise PermissionError(cache_path)
        write(cache_path, content)

    monkeypatch.setattr(file_cache, "write_atomically", refuse_beside)
    first = annotation_summary(path)
    assert len(list((tmp_path / "home" / "balms_det").iterdir())) == 1
    fresh()
    monkeypatch.setattr(summary_cache, "summarize", _fail)
    assert annotation_summary(path) == first


def test_no_place_to_write_is_no_error(write_dataset, fresh, monkeypatch):
    path, _ = write_dataset(coco_content())

    def disk_full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", disk_full)
    assert annotation_summary(path).instance_count == [1, 3, 0]
    folder = Path(path).parent
    assert not [p for p in folder.rglob("*") if SUFFIX in p.name]  # nothing half-written


def test_other_ranks_write_nothing(write_dataset, fresh, monkeypatch):
    path, _ = write_dataset(coco_content())
    monkeypatch.setattr(summary_cache, "is_first_rank", lambda: False)
    assert annotation_summary(path).instance_count == [1, 3, 0]
    assert not Path(path + SUFFIX).exists()


def test_small_files_leave_no_trace(write_dataset, fresh, monkeypatch):
    monkeypatch.setattr(summary_cache, "MIN_CACHED_BYTES", 10**6)
    path, _ = write_dataset(coco_content())
    annotation_summary(path)
    assert not Path(path + SUFFIX).exists()
