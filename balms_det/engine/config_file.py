"""Reading a YAML config, and the files of its ``_BASE_``, without building Python objects."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from fvcore.common.config import BASE_KEY

from balms_det.trust import insist

_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?:\w+\.)*(\w+)'> vs\. <class '(?:\w+\.)*(\w+)'>\)"
    r".* for config key: (\S+)",
    re.DOTALL,
)


def merge_config_file(cfg: CfgNode, path: str) -> None:
    """``cfg.merge_from_file(path)`` of Detectron2, which by itself does what a YAML tag says.

    Raises:
        FileNotFoundError: it, or a file of its ``_BASE_``, is not there.
        UntrustedFileError: it, or a file of its ``_BASE_``, has a tag such as
            ``!!python/object/apply``.
        KeyError: a key that the config does not have.
        ValueError: it is no YAML of keys and values, or a value is of the wrong type.
    """
    try:
        _check_file(cfg, path, ())
        allow_unsafe = False
    except yaml.constructor.ConstructorError as error:
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else path
        insist("yaml", f"{where}: {error.problem}, so this is no config of plain values")
        allow_unsafe = True
    with errors_name(path):
        cfg.merge_from_file(path, allow_unsafe=allow_unsafe)


def _check_file(cfg: CfgNode, path: str, children: tuple[str, ...]) -> None:
    """Read a config and its bases, which name each other, without merging them."""
    local_path = PathManager.get_local_path(path)
    needed_by = f" (the {BASE_KEY} of {children[-1]})" if children else ""
    if not os.path.isfile(local_path):
        what = "is a folder, not a file" if os.path.isdir(local_path) else "does not exist"
        raise FileNotFoundError(f"Config file '{path}'{needed_by} {what}.")
    if path in children:
        raise ValueError(f"Config file '{path}' is its own {BASE_KEY}, by way of {children[-1]}.")
    content = _read(path, local_path)
    for key, value in content.items():
        if not isinstance(key, str):
            raise ValueError(f"{path}: the key {key!r} must be a text.")
        if isinstance(cfg.get(key), CfgNode) and not isinstance(value, dict):
            raise ValueError(f"{path}: {key} must hold keys and values, got {value!r:.80}.")
    for base in _bases(path, content.get(BASE_KEY, [])):
        _check_file(cfg, base, (*children, path))


def _read(path: str, local_path: str) -> dict:
    try:
        with open(local_path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except yaml.constructor.ConstructorError:
        raise
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML file: {str(error) or 'it is too deep'}") from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds {content!r:.80}"
        raise ValueError(f"{path} must hold keys and values, as in `SEED: 1`, and {found}.")
    return content


def _bases(path: str, given: object) -> Iterator[str]:
    """Paths of the files that ``_BASE_`` names, as Detectron2 takes them."""
    bases = given if isinstance(given, list) else [given]
    for base in bases:
        if not isinstance(base, str):
            raise ValueError(f"{path}: {BASE_KEY} must be a file name, or a list, got {given!r}.")
        base = os.path.expanduser(base)
        remote = base.startswith(("https://", "http://"))
        absolute = base.startswith("/") or remote
        yield base if absolute else os.path.join(os.path.dirname(path), base)


@contextmanager
def errors_name(source: str) -> Iterator[None]:
    """Errors of yacs, shorter and with the file, or the like, that they come from.

    Raises:
        KeyError: a key that the config does not have.
        ValueError: a value of the wrong type, or a file for another version of Detectron2.
    """
    try:
        yield
    except KeyError as error:
        raise KeyError(
            f"{source}: {error.args[0]}. Is it misspelt, or of another project's config?"
        ) from error
    except (ValueError, AssertionError) as error:
        wrong = _MISMATCH.search(str(error))
        text = (
            f"{wrong[3]} must be {_kind(wrong[1])}, got {_kind(wrong[2])}" if wrong else str(error)
        )
        raise ValueError(f"{source}: {text.removesuffix('.')}.") from error


def _kind(name: str) -> str:
    return "keys and values" if name == "CfgNode" else f"of type {name}"
