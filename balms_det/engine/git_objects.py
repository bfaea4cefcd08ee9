"""The tree that a commit of a git repository points to, read from its object files."""

from __future__ import annotations

import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_COMMIT = 1  # type of an object in a pack; 6 and 7 are differences to another object
_COMMIT_BYTES = 1 << 16


def tree_of_commit(objects: Path, commit: str) -> str | None:
    """Hexadecimal digest of a commit's tree.

    Args:
        objects: the folder of that name in ``.git``.
        commit: hexadecimal.

    Returns:
        None where the commit is not there, or is packed as a difference to another object.
    """
    if not re.fullmatch("[0-9a-f]{40}", commit):
        return None
    for folder in _folders(objects):
        loose = folder / commit[:2] / commit[2:]
        if loose.is_file():
            content = zlib.decompressobj().decompress(loose.read_bytes(), _COMMIT_BYTES)
            return _tree(content.partition(b"\0")[2])
        for index in sorted(folder.glob("pack/pack-*.idx")):
            offset = _offset_in_pack(index, bytes.fromhex(commit))
            if offset is not None:
                return _tree(_commit_in_pack(index.with_suffix(".pack"), offset))
    return None


def _folders(objects: Path) -> Iterator[Path]:
    yield objects
    alternates = objects / "info" / "alternates"
    if alternates.is_file():
        for line in alternates.read_text(errors="replace").splitlines():
            yield Path(os.path.join(objects, line))


def _tree(content: bytes) -> str | None:
    found = re.match(rb"tree ([0-9a-f]{40})\n", content)
    return found[1].decode() if found else None


def _offset_in_pack(index: Path, digest: bytes) -> int | None:
    """Where an object begins in the pack of an index (version 2); None if it is not in it."""
    with open(index, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        if raw[:8] != b"\xfftOc\0\0\0\2":
            return None
        fanout = struct.unpack(">256I", raw[8 : 8 + 1024])
        low, high = fanout[digest[0] - 1] if digest[0] else 0, fanout[digest[0]]
        names, count = 8 + 1024, fanout[255]
        while low < high:
            middle = (low + high) // 2
            name = raw[names + 20 * middle : names + 20 * middle + 20]
            if name == digest:
                offsets = names + 24 * count
                (offset,) = struct.unpack(
                    ">I", raw[offsets + 4 * middle : offsets + 4 * middle + 4]
                )
                if offset < 1 << 31:
                    return offset
                large = offsets + 4 * count + 8 * (offset & 0x7FFFFFFF)
                return struct.unpack_from(">Q", raw, large)[0]
            low, high = (middle + 1, high) if name < digest else (low, middle)
    return None


def _commit_in_pack(pack: Path, offset: int) -> bytes:
    with open(pack, "rb") as file:
        file.seek(offset)
        raw = file.read(_COMMIT_BYTES)
    if (raw[0] >> 4) & 7 != _COMMIT:
        return b""
    start = 1
    while raw[start - 1] & 0x80:  # the object's size, seven bits a byte
        start += 1
    return zlib.decompressobj().decompress(raw[start:], _COMMIT_BYTES)
