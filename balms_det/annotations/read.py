"""Decode an annotation json, with errors that say where it is wrong."""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import msgspec

from balms_det.utils.local import local_path as path_on_this_machine

# What numbers of a file are kept in: 64 bits for an id; and a mask's runs have 32 for its pixels.
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=2**16 - 1)]


class AnnotationFileError(ValueError):
    """An annotation file that cannot be used; the message names the file and what is wrong."""


@contextlib.contextmanager
def garbage_collector_paused() -> Iterator[None]:
    """For work on a loaded file: it forms no cycles, and the collector would walk millions of lists
    over and over, which on a file of the size of LVIS v1 takes as long as all the rest."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_annotation_json(
    path: str, content_type: Any = Any, dec_hook: Callable[[type, Any], Any] | None = None
) -> Any:
    """Decode a json file, by default into plain dicts and lists.

    ``dec_hook`` makes the types in ``content_type`` that msgspec does not know.

    Raises:
        FileNotFoundError: no such file, or a folder.
        AnnotationFileError: broken json (with line and column) or another type than asked for.
    """
    local_path = local_file(path)
    if os.path.getsize(local_path) == 0:
        raise AnnotationFileError(f"{path}: the file is empty.")
    with (
        open(local_path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        try:
            return msgspec.json.decode(content, type=content_type, dec_hook=dec_hook)
        except msgspec.ValidationError as error:
            raise _wrong_type(path, error) from error
        except RecursionError as error:
            raise _too_deep(path) from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass  # Python's reader says where, and accepts the NaN that some tools write
    return _decode_leniently(path, local_path, content_type, dec_hook)


def _decode_leniently(
    path: str, local_path: str, content_type: Any, dec_hook: Callable[[type, Any], Any] | None
) -> Any:
    try:
        with open(local_path, encoding="utf-8-sig") as file:
            return msgspec.convert(json.load(file), content_type, dec_hook=dec_hook)
    except json.JSONDecodeError as error:
        raise AnnotationFileError(
            f"{path} is not valid json: {error.msg} at line {error.lineno}, column {error.colno}."
            " Was it cut off while it was copied?"
        ) from error
    except UnicodeError as error:  # other bytes, or an escape that is half of a character
        raise AnnotationFileError(f"{path} is not a UTF-8 text file: {error}.") from error
    except RecursionError as error:
        raise _too_deep(path) from error
    except msgspec.ValidationError as error:
        raise _wrong_type(path, error) from error


def local_file(path: str) -> str:
    """Where an annotation file lies on this machine.

    Raises:
        FileNotFoundError: no such file, or a folder.
    """
    local_path = path_on_this_machine(path)
    if os.path.isdir(local_path):
        raise FileNotFoundError(f"'{path}' is a folder: give the annotation json inside it.")
    if not os.path.isfile(local_path):
        raise FileNotFoundError(f"Annotation file '{path}' does not exist.")
    return local_path


def _too_deep(path: str) -> AnnotationFileError:
    return AnnotationFileError(f"{path}: lists or objects lie too deep in each other.")


def _wrong_type(path: str, error: msgspec.ValidationError) -> AnnotationFileError:
    return AnnotationFileError(
        f"{path} is not a LVIS- or COCO-format annotation file: {error} ($ is the whole file)."
        " It must be an object with the lists 'images', 'categories' and 'annotations'."
    )


def sorted_by_id(path: str, what: str, entries: Sequence[Any]) -> list:
    """Images or categories in ascending order of their ids.

    Args:
        path: what to call the file in an error.
        what: the key of the entries in the file.
        entries: objects with an ``id``.

    Raises:
        AnnotationFileError: there are none, some ids are numbers and others texts, or two entries
            have the same.
    """
    if not entries:
        raise AnnotationFileError(f"{path}: '{what}' is empty.")
    check_unique(path, what, [entry.id for entry in entries])
    try:
        return sorted(entries, key=lambda entry: entry.id)
    except TypeError as error:
        raise AnnotationFileError(
            f"{path}: some ids in '{what}' are numbers and others texts. Write all of them one way."
        ) from error


def check_unique(path: str, what: str, values: Sequence, field: str = "id") -> None:
    """Raise AnnotationFileError for a value that two entries of the list ``what`` have."""
    if len(set(values)) != len(values):
        value, times = Counter(values).most_common(1)[0]
        raise AnnotationFileError(
            f"{path}: {field} {value!r} is listed {times} times in '{what}'; it must be unique."
        )
