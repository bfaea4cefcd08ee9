"""What identifies the content of a file: its size and its SHA-256.

Digests of large files are cached beside them, or in the user's cache folder, for as long as size
and modification time stay the same (see :mod:`balms_det.annotations.summary`).
"""

from __future__ import annotations

import hashlib
import logging
import os

import msgspec

from balms_det.utils.files import write_atomically

logger = logging.getLogger(__name__)


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


# Smaller files are counted again in a blink: not worth a file beside them.
MIN_CACHED_BYTES = 16 * 2**20


def cache_paths(path: str, suffix: str) -> list[str]:
    """Places for a cache of ``path``, the preferred one first."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    name = f"{os.path.basename(path)}.{digest}{suffix}"
    return [path + suffix, os.path.join(home, "balms_det", name)]


def write_first_possible(places: list[str], content: bytes) -> None:
    """Write a cache to the first place that takes it."""
    for cache_path in places:
        try:
            write_atomically(cache_path, content)
        except OSError as error:  # a read-only or full disk must not stop a training
            logger.debug("No cache at %s: %s", cache_path, error)
        else:
            logger.info("Cached in %s", cache_path)
            return
