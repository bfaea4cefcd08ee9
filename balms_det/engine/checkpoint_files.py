"""The checkpoints of a run: written whole or not at all, resumed from the newest whole one.

Detectron2 writes a checkpoint, and the file ``last_checkpoint`` that names it, in place: a kill
leaves half of it under its final name. Here both are written beside their place and renamed. A
checkpoint can still be cut off or rot afterwards (a full disk, a copy, a crash of the machine): it
is a zip file with a checksum for each tensor, which is looked at before it is loaded.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from detectron2.utils import comm

from balms_det.engine.checkpoint import LongTailCheckpointer

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"model_(\d+)\.pth")
_PART = ".part"


class RunCheckpointer(LongTailCheckpointer):
    """Saves and resumes a run; arguments as in Detectron2.

    Attributes:
        resumed_from: name of the file that :meth:`get_checkpoint_file` has chosen; empty before.
    """

    def __init__(self, model, save_dir: str = "", **objects):
        super().__init__(model, save_dir, **objects)
        self.path_manager = WholeFiles(self.path_manager)
        self.resumed_from = ""

    def save(self, name: str, **extra) -> None:
        if self.save_dir and self.save_to_disk:
            _remove_parts(Path(self.save_dir))
        super().save(name, **extra)

    def get_checkpoint_file(self) -> str:
        """The checkpoint to resume from: the last one or, with a warning, the newest whole one
        before it. All ranks get the choice of rank 0.

        Raises:
            ValueError: no checkpoint is whole.
        """
        last = super().get_checkpoint_file()
        choice = _newest_whole(Path(self.save_dir), last) if comm.is_main_process() else None
        if comm.get_world_size() > 1:
            choice = comm.all_gather(choice)[0]
        path, error = choice
        if error:
            raise ValueError(error)
        self.resumed_from = os.path.basename(path)
        return path


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


def _remove_parts(folder: Path) -> None:
    """Remove what killed runs left of checkpoints that they were writing."""
    for part in folder.glob(f".*{_PART}"):
        part.unlink(missing_ok=True)


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, in few words; None if it is whole. It unpickles nothing."""
    if not path.is_file():
        return "is not there"
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        return f"is cut off or no checkpoint ({error})"
    return f"has changed since it was written (checksum of {broken})" if broken else None


def _newest_whole(folder: Path, last: str) -> tuple[str, str]:
    """The checkpoint to resume from, and the error if there is none (one of the two is empty)."""
    named = Path(last) if last and Path(last) != folder else None
    fault = fault_of(named) if named else "names no checkpoint"
    if fault is None:
        return str(named), ""
    broken = str(named or folder / "last_checkpoint")
    for path in _earlier(folder, named):
        if fault_of(path) is None:
            logger.warning("%s %s: resuming from the one before it, %s", broken, fault, path)
            return str(path), ""
    return "", (
        f"{broken} {fault}, and no checkpoint before it in {folder} is whole. Put a copy of it "
        "back, or start over: remove last_checkpoint there, or choose another OUTPUT_DIR"
    )


def _earlier(folder: Path, named: Path | None) -> list[Path]:
    """Numbered checkpoints before ``named``, newest first; all, where its name has no number."""
    numbers = {}
    for path in folder.glob("model_*.pth"):
        match = _NUMBERED.fullmatch(path.name)
        if match:
            numbers[path] = int(match[1])
    limit = _NUMBERED.fullmatch(named.name) if named else None
    found = [path for path, number in numbers.items() if not limit or number < int(limit[1])]
    return sorted(found, key=numbers.get, reverse=True)
