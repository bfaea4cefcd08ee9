"""Files that are seen whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; on success it takes ``path``'s place.

    The folder is made if it is missing. Whatever goes wrong, the temporary file is removed and
    ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=path.suffix)
    os.close(handle)
    try:
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
        with open(part, mode) as file:
            yield file
            file.flush()
            # A machine that crashes must not be left with the name of a file without its content.
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
