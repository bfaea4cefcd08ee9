"""A cache of annotation summaries, in memory and on disk.

An entry belongs to one state of one annotation file: its path, size and modification time. On disk
it lies beside the annotation file or, where that folder is read-only, in the user's cache folder
(``$XDG_CACHE_HOME/balms_det``, by default ``~/.cache/balms_det``).
"""

from __future__ import annotations

import hashlib
import logging
import os

import msgspec
from detectron2.utils import comm

from balms_det.data.annotation_file import AnnotationSummary, summarize
from balms_det.data.annotation_json import local_file
from balms_det.files import write_atomically

logger = logging.getLogger(__name__)

# Smaller files are counted again in a blink: not worth a file beside them.
MIN_CACHED_BYTES = 16 * 2**20
SUFFIX = ".class_stats_cache"
_VERSION = 2

_in_memory: dict[tuple, AnnotationSummary] = {}


class _Entry(msgspec.Struct):
    version: int
    path: str
    size: int
    mtime_ns: int
    summary: AnnotationSummary


def annotation_summary(path: str) -> AnnotationSummary:
    """Return the summary of an annotation file: from memory, else from disk, else by reading it.

    Only rank 0 writes to disk. The other ranks never wait for it (they may not all come here):
    without a cache they read the file themselves.

    Raises:
        FileNotFoundError, AnnotationFileError: see ``annotation_file.summarize``.
    """
    local_path = os.path.abspath(local_file(path))
    status = os.stat(local_path)
    key = (local_path, status.st_size, status.st_mtime_ns)
    if key not in _in_memory:
        _in_memory[key] = _from_disk(key) or _read(key)
    return _in_memory[key]


def _from_disk(key: tuple) -> AnnotationSummary | None:
    for cache_path in cache_paths(key[0], SUFFIX):
        try:
            with open(cache_path, "rb") as file:
                entry = msgspec.json.decode(file.read(), type=_Entry)
        except (OSError, msgspec.DecodeError, RecursionError):
            continue  # absent, unreadable or of another version of this package
        owner = entry.version, entry.path, entry.size, entry.mtime_ns
        if owner == (_VERSION, *key) and _is_whole(entry.summary):
            return entry.summary
    return None


def _is_whole(summary: AnnotationSummary) -> bool:
    """Whether every class has all of its numbers: somebody may have edited the file."""
    columns = (summary.names, summary.frequency, summary.image_count, summary.instance_count)
    sizes = {len(column) for column in (summary.category_ids, *columns) if column is not None}
    return len(sizes) == 1 and 0 not in sizes


def _read(key: tuple) -> AnnotationSummary:
    path, size, mtime_ns = key
    summary = summarize(path)
    if size >= MIN_CACHED_BYTES and comm.get_rank() == 0:
        entry = _Entry(_VERSION, path, size, mtime_ns, summary)
        write_first_possible(cache_paths(path, SUFFIX), msgspec.json.encode(entry))
    return summary


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
