"""One writer at a time in the folder of a cache."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from balms_det.engine.feature_cache.layout import FeatureCacheError

NAME = ".lock"


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the folder, and clear away what killed writers left half-written.

    The lock goes with the process, however it ends.

    Raises:
        FeatureCacheError: somebody else holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / NAME, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FeatureCacheError(
                f"{folder}: another process is making this cache: wait for it, or stop it"
            ) from error
        for part in folder.glob(".tmp*"):  # ours, and those that safetensors writes to
            part.unlink()
        yield
