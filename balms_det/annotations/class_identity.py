"""Which classes a file, a dataset or a model has, and where they are in another's list.

A class is what its name says, or its id where there are no names; its place in a list says nothing:
two exports of the same data may number the same classes differently. Wherever two lists of classes
meet (training and validation files, a file and a model, a checkpoint and a config, a cache), they
go through :func:`class_places`: the same classes are mapped, others are refused.

Symbols: ``K`` classes of a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# So many classes are listed in a message.
LISTED = 3


class ClassListError(ValueError):
    """Two lists of classes that do not belong together; the message names where both are from."""


@dataclass(frozen=True)
class ClassList:
    """The classes of something, in its own order.

    Attributes:
        source: what an error calls it: a path, a dataset, a checkpoint.
        size: K.
        names: K class names, or None where they are not known.
        ids: K category ids, or None where they are not known.

    Raises:
        ValueError: ``names`` or ``ids`` have another length than K.
    """

    source: str
    size: int
    names: tuple[str, ...] | None = None
    ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for field in ("names", "ids"):
            values = getattr(self, field)
            if values is not None and len(values) != self.size:
                raise ValueError(f"{self.source}: {len(values)} {field} of {self.size} classes")

    @classmethod
    def of(
        cls, source: str, names: Iterable[str] | None = None, ids: Iterable[int] | None = None
    ) -> ClassList:
        """A list of what is known, names or ids or both.

        Raises:
            ValueError: neither is known, or their lengths differ.
        """
        names = None if names is None else tuple(names)
        ids = None if ids is None else tuple(ids)
        if names is None and ids is None:
            raise ValueError(f"{source}: neither names nor ids of its classes are known")
        return cls(source, len(ids if names is None else names), names, ids)


def class_places(wanted: ClassList, given: ClassList) -> np.ndarray:
    """Where each class of ``wanted`` is in ``given``, (K,) int64.

    Names decide; ids, where one of the two has no names; where nothing else is known to both, the
    number of classes has to be the same, and the order is taken to be.

    Raises:
        ClassListError: one of them has a class that the other has not, or a name twice.
    """
    what, own, others = _comparable(wanted, given)
    if own is None or own == others:
        if wanted.size != given.size:
            raise ClassListError(_difference(wanted, given, (), ()))
        return np.arange(wanted.size)
    if set(own) != set(others):
        raise ClassListError(_difference(wanted, given, own, others))
    for entries, source in ((own, wanted.source), (others, given.source)):
        if len(set(entries)) != len(entries):
            twice = next(entry for entry in entries if entries.count(entry) > 1)
            raise ClassListError(
                f"{source}: two classes have the {what} {twice!r}, so that they cannot be matched "
                f"with those of {given.source if source == wanted.source else wanted.source}."
            )
    place = {entry: n for n, entry in enumerate(others)}
    return np.array([place[entry] for entry in own], np.int64)


def check_same_order(wanted: ClassList, given: ClassList) -> None:
    """Raise ClassListError unless both have the same classes in the same order."""
    places = class_places(wanted, given)
    moved = np.flatnonzero(places != np.arange(len(places)))
    if len(moved):
        c = int(moved[0])
        _, own, others = _comparable(wanted, given)
        raise ClassListError(
            f"{given.source} has the classes of {wanted.source} in another order: class {c} is "
            f"{own[c]!r} in {wanted.source} and {others[c]!r} in {given.source}."
        )


def reordered(values: Sequence[Any] | None, places: Iterable[int]) -> list | None:
    """``values`` of the classes of ``given``, in the order of ``wanted``; None stays None."""
    return None if values is None else [values[int(place)] for place in places]


def _comparable(a: ClassList, b: ClassList) -> tuple[str, tuple | None, tuple | None]:
    """What both know of their classes: the word for it, and the two columns."""
    if a.names is not None and b.names is not None:
        return "name", a.names, b.names
    if a.ids is not None and b.ids is not None:
        return "id", a.ids, b.ids
    return "", None, None


def _difference(wanted: ClassList, given: ClassList, own: tuple, others: tuple) -> str:
    alone = []
    for source, entries, rest in ((given.source, others, own), (wanted.source, own, others)):
        only = sorted(set(entries) - set(rest), key=entries.index)
        more = ", ..." if len(only) > LISTED else ""
        if only:
            alone.append(f"; {source} alone has {', '.join(map(repr, only[:LISTED]))}{more}")
    return (
        f"{given.source} has {given.size} classes and {wanted.source} has {wanted.size}: "
        f"different class lists{''.join(alone)}. Both must have the same classes, in any order."
    )
