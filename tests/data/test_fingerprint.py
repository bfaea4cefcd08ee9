"""Digests of files, and their cache."""

import hashlib

import pytest

from balms_det.utils import file_cache as fingerprint
from balms_det.utils.file_cache import SUFFIX, file_fingerprint


@pytest.fixture
def count(monkeypatch):
    """How often a file was read through."""
    calls, read = [], fingerprint.file_sha256
    monkeypatch.setattr(fingerprint, "file_sha256", lambda path: calls.append(path) or read(path))
    return calls


def test_a_small_file_is_read_each_time_and_leaves_nothing(tmp_path, count):
    (tmp_path / "a.json").write_bytes(b"{}")
    expected = {"file": str(tmp_path / "a.json"), "size": 2}
    expected["sha256"] = hashlib.sha256(b"{}").hexdigest()
    assert (
        file_fingerprint(tmp_path / "a.json") == expected == file_fingerprint(tmp_path / "a.json")
    )
    assert len(count) == 2 and len(list(tmp_path.iterdir())) == 1


def test_a_large_file_is_read_once(tmp_path, count, monkeypatch):
    monkeypatch.setattr(fingerprint, "MIN_CACHED_BYTES", 1)
    path = tmp_path / "a.json"
    path.write_bytes(b"{}")
    assert file_fingerprint(path) == file_fingerprint(path)
    assert len(count) == 1
    path.write_bytes(b"[1]")
    assert file_fingerprint(path)["sha256"] == hashlib.sha256(b"[1]").hexdigest()
    path.with_name(f"a.json{SUFFIX}").write_text("{broken")
    assert file_fingerprint(path)["sha256"] == hashlib.sha256(b"[1]").hexdigest()
    assert len(count) == 3


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        file_fingerprint(tmp_path / "gone.json")
