"""Files that are seen whole or not at all."""

import os
import shutil

import pytest

from balms_det.utils.files import atomic_path, write_atomically


def test_text_and_bytes_arrive_in_a_new_folder(tmp_path):
    write_atomically(tmp_path / "new" / "a.txt", "naïve")
    write_atomically(tmp_path / "new" / "b.bin", b"\x00")
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "naïve"
    assert (tmp_path / "new" / "b.bin").read_bytes() == b"\x00"


def test_a_failed_rename_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("old")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a.json", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.png") as part:
        part.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(OSError, match=f"the disk of {tmp_path} is full, so a.png could not"),
        atomic_path(tmp_path / "a.png"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"picture")
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_hides_why_it_failed_is_asked_of_the_disk(tmp_path, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))
    for free, kind in ((0, OSError), (1 << 30, RuntimeError)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(1 << 31, 0, free))
        with pytest.raises(kind) as caught, atomic_path(tmp_path / "model.pth"):
            raise RuntimeError("PytorchStreamWriter failed writing file")
        assert ("is full" in str(caught.value)) == (free == 0)
    assert list(tmp_path.iterdir()) == []
