"""A class-count cache that is not what was written: it is counted again, with the same result."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def _changed(change: Callable[[dict], Any]) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        entry = json.loads(content)
        change(entry)
        return json.dumps(entry).encode()

    return damage


def _in_summary(key: str, value: Any) -> Callable[[bytes], bytes]:
    return _changed(lambda entry: entry["summary"].update({key: value}))


#: What is bad about it, and what becomes of the bytes that were written.
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "binary": lambda content: bytes(range(256)),
    "too deep": lambda content: b'{"a": ' * 100_000,
    "a list": lambda content: b"[]",
    "of another file": _changed(lambda entry: entry.update(path="/other.json")),
    "of another size": _changed(lambda entry: entry.update(size=1)),
    "of another time": _changed(lambda entry: entry.update(mtime_ns=1)),
    "of another version": _changed(lambda entry: entry.update(version=0)),
    "without summary": _changed(lambda entry: entry.pop("summary")),
    "summary null": _changed(lambda entry: entry.update(summary=None)),
    "counts of texts": _in_summary("image_count", ["many", "few"]),
    "a count too few": _in_summary("image_count", [1]),
    "a name too many": _in_summary("names", ["owl", "bee", "cat"]),
    "no class": _in_summary("category_ids", []),
    "frequency a text": _in_summary("frequency", "rr"),
}
