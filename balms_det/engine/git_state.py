"""Commit and state of a git checkout, read from its files.

git itself is not called: it may not be installed, and in somebody else's checkout it can run
programs that the checkout's config names. What is read: ``HEAD`` and the refs, the index (versions
2 to 4), the object of the commit (loose, or whole in a pack).
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from balms_det.engine.git_objects import tree_of_commit

_SKIP_WORKTREE, _EXTENDED, _INTENT = 0x4000, 0x4000, 0x2000
_DIRECTORY, _SUBMODULE = 0o040000, 0o160000


@dataclass(frozen=True)
class _Entry:
    """A file of the index; ``unchanged`` says that it is not to be looked at on disk."""

    path: bytes
    mode: int
    digest: bytes
    size: int
    mtime_ns: int
    staged_whole: bool
    unchanged: bool


def git_state(folder: str | os.PathLike, tracked: str | os.PathLike | None = None) -> dict | None:
    """What is checked out where a folder lies.

    Args:
        folder: any folder of the checkout.
        tracked: a file that has to be of the checkout, and does not just lie inside it.

    Returns:
        ``root``; ``commit`` (hexadecimal, or None before the first); ``branch`` (None where there
        is none); ``dirty``: whether a file differs from the commit in its content, or is gone; None
        where that cannot be told. Files that git does not track do not count. None outside of a
        checkout.
    """
    root = next((p for p in _upwards(folder) if (p / ".git").exists()), None)
    if root is None:
        return None
    git = _git_folder(root)
    common = git / _read(git / "commondir", ".").strip()
    entries = _index(git / "index")
    if tracked is not None:
        name = os.fsencode(os.path.relpath(os.path.abspath(tracked), root))
        if not any(entry.path == name for entry in entries or ()):
            return None
    branch, commit = _head(git, common)
    dirty = None
    if entries is not None and commit is not None:
        dirty = _is_dirty(root, git, entries, tree_of_commit(common / "objects", commit))
    return {"root": str(root), "commit": commit, "branch": branch, "dirty": dirty}


def _upwards(folder: str | os.PathLike) -> Iterator[Path]:
    start = Path(os.path.abspath(folder))
    yield start
    yield from start.parents


def _git_folder(root: Path) -> Path:
    git = root / ".git"
    if git.is_dir():
        return git
    return root / _read(git).removeprefix("gitdir:").strip()  # of a worktree or submodule


def _read(path: Path, default: str = "") -> str:
    return path.read_text(errors="replace") if path.is_file() else default


def _head(git: Path, common: Path) -> tuple[str | None, str | None]:
    head = _read(git / "HEAD").strip()
    if not head.startswith("ref:"):
        return None, head or None
    ref = head.removeprefix("ref:").strip()
    commit = _read(git / ref).strip() or _read(common / ref).strip()
    if not commit:
        packed = (line.split(" ") for line in _read(common / "packed-refs").splitlines())
        commit = next((words[0] for words in packed if words[1:] == [ref]), "")
    return ref.removeprefix("refs/heads/"), commit or None


def _index(path: Path) -> list[_Entry] | None:
    """Entries of an index; None where it is of a kind that is not read here."""
    if not path.is_file():
        return None
    raw = path.read_bytes()
    if len(raw) < 32 or raw[:4] != b"DIRC":
        return None
    version, count = struct.unpack(">II", raw[4:12])
    # git may leave the checksum out, and has longer ones where it names objects by SHA-256.
    if version not in (2, 3, 4) or raw[-20:] not in (bytes(20), hashlib.sha1(raw[:-20]).digest()):
        return None
    entries, position, path_before = [], 12, b""
    for _ in range(count):
        entry, position = _entry(raw, position, version, path_before)
        entries.append(entry)
        path_before = entry.path
    partial = raw[position : position + 4] == b"link"  # the rest is in a shared index
    sparse = any(entry.mode == _DIRECTORY for entry in entries)
    return None if partial or sparse else entries


def _entry(raw: bytes, start: int, version: int, path_before: bytes) -> tuple[_Entry, int]:
    numbers = struct.unpack(">10I", raw[start : start + 40])
    digest = raw[start + 40 : start + 60]
    (flags,) = struct.unpack(">H", raw[start + 60 : start + 62])
    position, more = start + 62, 0
    if flags & _EXTENDED:
        (more,) = struct.unpack(">H", raw[position : position + 2])
        position += 2
    kept = b""
    if version == 4:  # a path begins as the one before it, but for so many characters
        dropped, position = _offset_number(raw, position)
        kept = path_before[: len(path_before) - dropped]
    end = raw.index(b"\0", position)
    path = kept + raw[position:end]
    following = end + 1 if version == 4 else start + (end - start) // 8 * 8 + 8
    entry = _Entry(
        path=path,
        mode=numbers[6],
        digest=digest,
        size=numbers[9],
        mtime_ns=numbers[2] * 10**9 + numbers[3],
        staged_whole=not (flags >> 12) & 3 and not more & _INTENT,
        unchanged=bool(flags & 0x8000 or more & _SKIP_WORKTREE) or numbers[6] == _SUBMODULE,
    )
    return entry, following


def _offset_number(raw: bytes, position: int) -> tuple[int, int]:
    value = raw[position] & 0x7F
    while raw[position] & 0x80:
        position += 1
        value = ((value + 1) << 7) | (raw[position] & 0x7F)
    return value, position + 1


def _is_dirty(root: Path, git: Path, entries: list[_Entry], tree: str | None) -> bool | None:
    if not all(entry.staged_whole for entry in entries):
        return True
    written_ns = (git / "index").stat().st_mtime_ns
    if any(_differs(root, entry, written_ns) for entry in entries if not entry.unchanged):
        return True
    return None if tree is None else tree != _tree_digest(entries).hex()


def _differs(root: Path, entry: _Entry, index_written_ns: int) -> bool:
    path = os.path.join(os.fsencode(root), entry.path)
    try:
        status = os.lstat(path)
    except OSError:
        return True
    same = (status.st_size & 0xFFFFFFFF, status.st_mtime_ns) == (entry.size, entry.mtime_ns)
    if same and entry.mtime_ns < index_written_ns:
        return False  # a file that was changed as the index was written may still look the same
    if stat.S_ISLNK(status.st_mode) != stat.S_ISLNK(entry.mode):
        return True
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = file.read()
    else:
        return True
    return _digest(b"blob", content) != entry.digest


def _digest(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha1(b"%s %d\0" % (kind, len(content)) + content).digest()


def _tree_digest(entries: Iterable[_Entry]) -> bytes:
    """Digest of the tree that committing the index would make."""
    return _folder_digest([(entry.path, entry.mode, entry.digest) for entry in entries])


def _folder_digest(files: list[tuple[bytes, int, bytes]]) -> bytes:
    rows, folders = [], {}
    for path, mode, digest in files:
        name, _, rest = path.partition(b"/")
        if rest:
            folders.setdefault(name, []).append((rest, mode, digest))
        else:
            rows.append((name, name, mode, digest))
    for name, inside in folders.items():
        rows.append((name + b"/", name, _DIRECTORY, _folder_digest(inside)))
    lines = (b"%o %s\0" % (mode, name) + digest for _, name, mode, digest in sorted(rows))
    return _digest(b"tree", b"".join(lines))
