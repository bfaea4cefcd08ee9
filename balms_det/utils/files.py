"""Files that are seen whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# Libraries that write files themselves say of a full disk no more than that something failed.
_NOTHING_LEFT = 1 << 16


@contextlib.contextmanager
def naming_full_disk(path: str | os.PathLike) -> Iterator[None]:
    """Around what writes ``path``: says which disk is full where that is why it failed.

    Raises:
        OSError: the disk of ``path``, or its quota, is full.
    """
    folder = Path(path).absolute().parent
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = isinstance(error, OSError) and error.errno in _FULL
        if not full and shutil.disk_usage(folder).free >= _NOTHING_LEFT:
            raise
        raise OSError(
            errno.ENOSPC,
            f"the disk of {folder} is full, so {Path(path).name} could not be written: free some "
            "space there, or choose a folder on another disk",
        ) from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; on success it takes ``path``'s place.

    The folder is made if it is missing. Whatever goes wrong, the temporary file is removed and
    ``path`` stays as it was.

    Raises:
        OSError: among others, the disk is full; the message says which.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_full_disk(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=path.suffix)
        os.close(handle)
    try:
        with naming_full_disk(path):
            yield Path(name)
            os.chmod(name, 0o644)  # mkstemp's files are private
            os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file through :func:`atomic_path`; text is UTF-8."""
    with atomic_path(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


_PART = ".part"


class WholeFiles:
    """A path manager whose files appear when they are complete; the rest is that of ``manager``.

    For local paths, as ``OUTPUT_DIR`` is one.
    """

    def __init__(self, manager: Any):
        self._manager = manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def open(self, path: str, mode: str = "r", **keys) -> contextlib.AbstractContextManager[IO]:
        if "w" not in mode:
            return self._manager.open(path, mode, **keys)
        return _written_whole(Path(path), mode)


@contextlib.contextmanager
def _written_whole(path: Path, mode: str) -> Iterator[IO]:
    """A file to write that takes the name ``path`` once it is on the disk."""
    part = path.with_name(f".{path.name}{_PART}")
    try:
        with naming_full_disk(path):
            with open(part, mode) as file:
                yield file
                file.flush()
                # A machine that crashes must not be left with a file's name without its content.
                os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
