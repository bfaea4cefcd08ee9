"""The ids of the images, categories and annotations of a file: one each, all of one kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from balms_det.data.annotation_json import AnnotationFileError


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
