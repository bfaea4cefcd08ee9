"""Attributes of an object that are other ones for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(target: Any, **values: Any) -> Iterator[None]:
    """Inside, ``target`` has these attributes; what they hid is seen again afterwards.

    A function hides the method of that name of this object alone.
    """
    own = {name: vars(target)[name] for name in values if name in vars(target)}
    for name, value in values.items():
        setattr(target, name, value)
    try:
        yield
    finally:
        for name in values:
            delattr(target, name)
        for name, value in own.items():
            setattr(target, name, value)
