"""What identifies the content of a file: its size and its SHA-256.

Digests of large files are cached beside them, or in the user's cache folder, for as long as size
and modification time stay the same (see :mod:`balms_det.data.summary_cache`).
"""

from __future__ import annotations

import hashlib
import os

import msgspec

from balms_det.data.summary_cache import MIN_CACHED_BYTES, cache_paths, write_first_possible

SUFFIX = ".sha256_cache"
_BLOCK = 1 << 20


class _Entry(msgspec.Struct):
    path: str
    size: int
    mtime_ns: int
    sha256: str


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, read anew."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_fingerprint(path: str | os.PathLike) -> dict[str, str | int]:
    """``file`` (absolute), ``size`` in bytes and ``sha256`` of a file.

    Raises:
        OSError: it cannot be read.
    """
    path = os.path.abspath(path)
    status = os.stat(path)
    key = (path, status.st_size, status.st_mtime_ns)
    if status.st_size < MIN_CACHED_BYTES:
        digest = file_sha256(path)
    else:
        digest = _cached(key)
        if digest is None:
            digest = file_sha256(path)
            content = msgspec.json.encode(_Entry(*key, digest))
            write_first_possible(cache_paths(path, SUFFIX), content)
    return {"file": path, "size": status.st_size, "sha256": digest}


def _cached(key: tuple[str, int, int]) -> str | None:
    for place in cache_paths(key[0], SUFFIX):
        try:
            with open(place, "rb") as file:
                entry = msgspec.json.decode(file.read(), type=_Entry)
        except (OSError, msgspec.DecodeError):
            continue
        if (entry.path, entry.size, entry.mtime_ns) == key:
            return entry.sha256
    return None
