"""Child configs: a YAML that names its base and holds what differs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode


def child_content(path: Path, base: str, opts: Sequence[str]) -> dict[str, Any]:
    """The content of a config that is to be written to ``path``.

    Args:
        path: of the child.
        base: path of its base; empty for none.
        opts: ``KEY VALUE`` pairs, as on the command line.
    """
    content: dict[str, Any] = {}
    if base:
        content["_BASE_"] = os.path.relpath(base, Path(path).parent)
    for key, value in zip(opts[::2], opts[1::2]):
        set_key(content, key, yaml_value(value))
    return content


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Set ``A.B.C`` in nested dicts."""
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
    content[last] = value


def yaml_value(text: str) -> Any:
    """What a word of the command line means in a config."""
    value = CfgNode._decode_cfg_value(text)
    # YAML has no tuples; a config accepts a list in place of one.
    return list(value) if isinstance(value, tuple) else value


def as_yaml(content: dict[str, Any], comment: str) -> str:
    """The text of a config, under a line of comment."""
    return f"# {comment}\n{yaml.safe_dump(content, sort_keys=False)}"
