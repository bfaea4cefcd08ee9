"""Results of any framework, from memory or from a file, a chunk at a time.

A results file of LVIS's validation set has some five million entries. As Python dicts they take
several GB, so the file is cut between entries and only a piece of it is ever in that form.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, TypedDict

import msgspec

from balms_det.utils.local import local_path as path_on_this_machine

_CHUNK_BYTES = 8 << 20
_CHUNK_ENTRIES = 1 << 12
_GAP = re.compile(rb"\}\s*,\s*\Z")  # between two entries
_LONGEST_GAP = 1 << 8
# What gzip and zipfile raise: cut off, not packed at all, damaged, or with a password.
_PACKED_BADLY = (gzip.BadGzipFile, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError)


class ResultsError(ValueError):
    """Results that cannot be used; the message names the file, the entry and its value."""


class _WrongCut(Exception):
    """A piece of the file is not a list of entries."""


def results_name(results: Any) -> str:
    """What to call results in an error: their path, or "results"."""
    return str(results) if isinstance(results, (str, os.PathLike)) else "results"


def result_chunks(
    results: Any, keys: Collection[str] | None = None, *, raw: bool = False
) -> Iterator[list]:
    """Lists of entries that together are the results, in order.

    Args:
        results: a list of entries, or the path of a json list; ``.gz`` and ``.zip`` (of one json)
            are unpacked on the way.
        keys: of an entry in a file all others may be missing, which saves time; None keeps all.
        raw: of an entry in a file the values of these keys may be whatever stands for them, which
            saves more: only what keys there are is asked for.

    Raises:
        FileNotFoundError: no such file.
        ResultsError: it is not a list, or the json is broken.
    """
    if isinstance(results, (str, os.PathLike)):
        return _file_chunks(str(results), _decoder(keys, raw))
    if not isinstance(results, (list, tuple)):
        raise ResultsError(f"results must be a list of entries, not {_describe(results)}.")
    starts = range(0, len(results), _CHUNK_ENTRIES)
    return (results[start : start + _CHUNK_ENTRIES] for start in starts)


def _decoder(keys: Collection[str] | None, raw: bool) -> Callable[[bytes], list]:
    if keys is None:
        return msgspec.json.decode
    entry = TypedDict("Entry", dict.fromkeys(keys, msgspec.Raw if raw else Any), total=False)
    return msgspec.json.Decoder(list[entry]).decode


def _file_chunks(path: str, decode: Callable[[bytes], list]) -> Iterator[list]:
    local_path = path_on_this_machine(path)
    if os.path.isdir(local_path):
        raise FileNotFoundError(f"'{path}' is a folder: give the results file inside it.")
    if not os.path.isfile(local_path):
        raise FileNotFoundError(f"Results file '{path}' does not exist.")
    try:
        yield from _chunks(path, local_path, decode)
    except _PACKED_BADLY as error:
        raise ResultsError(
            f"{path} cannot be unpacked: {error}. Was it cut off while it was written or copied?"
        ) from error


def _chunks(path: str, local_path: str, decode: Callable[[bytes], list]) -> Iterator[list]:
    with _open(path, local_path) as file:
        whole = not file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    size = 0
    if not whole:
        try:
            for chunk in _cut_chunks(path, local_path, decode):
                size += len(chunk)
                yield chunk
        except _WrongCut:
            whole = True
    if whole:
        yield _read_whole(path, local_path)[size:]


def _open(path: str, local_path: str) -> AbstractContextManager[BinaryIO]:
    if path.endswith(".gz"):
        return gzip.open(local_path, "rb")
    if not path.endswith(".zip"):
        return open(local_path, "rb")
    archive = zipfile.ZipFile(local_path)
    names = [name for name in archive.namelist() if name.endswith(".json")]
    if len(names) != 1:
        raise ResultsError(f"{path} must hold one json, and holds {names}.")
    return archive.open(names[0])


def _cut_chunks(path: str, local_path: str, decode: Callable[[bytes], list]) -> Iterator[list]:
    with _open(path, local_path) as file:
        text = file.read(_CHUNK_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")[1:]
        while block := file.read(_CHUNK_BYTES):
            end, start = _last_cut(text)
            if end:
                yield _decode(b"[" + text[:end] + b"]", decode)
            text = text[start:] + block
        if text.strip() != b"]":
            yield _decode(b"[" + text, decode)


def _last_cut(text: bytes) -> tuple[int, int]:
    """The end of an entry and the start of the next one, the last such place; 0, 0 without one.

    An entry may hold a list of objects and be cut in two; that is found out.
    """
    start = text.rfind(b"{")
    while start > 0:
        first = max(start - _LONGEST_GAP, 0)
        if gap := _GAP.search(text[first:start]):
            return first + gap.start() + 1, start
        start = text.rfind(b"{", 0, start)
    return 0, 0


def _decode(text: bytes, decode: Callable[[bytes], list]) -> list:
    for function in (decode, json.loads):  # Python's accepts NaN and Infinity
        try:
            with _collector_off():
                return function(text)
        except (msgspec.DecodeError, ValueError, RecursionError):
            continue
    raise _WrongCut


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Three quarters of the time go to Python's search for garbage among new objects otherwise."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_whole(path: str, local_path: str) -> list:
    try:
        with _open(path, local_path) as file:
            content = json.loads(file.read().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ResultsError(
            f"{path} is not valid json: {error.msg} at line {error.lineno}, column {error.colno}."
            " Was it cut off while it was written or copied?"
        ) from error
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path} is not a UTF-8 text file: {error}.") from error
    except RecursionError as error:
        raise ResultsError(f"{path}: lists or objects lie too deep in each other.") from error
    except ValueError as error:  # a number of thousands of digits
        raise ResultsError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, list):
        raise ResultsError(f"{path} must hold a list of entries, and holds {_describe(content)}.")
    return content


def _describe(value: Any) -> str:
    keys = (
        f" with the keys {', '.join(map(str, list(value)[:5]))}" if isinstance(value, dict) else ""
    )
    return f"a {type(value).__name__}{keys}"
