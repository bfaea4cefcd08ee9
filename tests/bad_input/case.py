"""A case of bad input: what is done with it, and the error that tells a user what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        name: what is bad about it.
        run: uses it in a new folder, and must raise.
        error: the class of the error, no subclass.
        words: what the message must hold, such as the file, the key and what to do.
    """

    name: str
    run: Callable[[Path], Any]
    error: type[Exception]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """One bad command line of a tool.

    Attributes:
        tool: its name in ``tools/``.
        words: its words; ``{}`` stands for the folder that :func:`documents.fill` has filled.
        status: its exit status: 2 where argparse refuses it, else 1.
        says: what the last line of stderr must hold besides ``error: ``.
    """

    tool: str
    words: str
    status: int
    says: tuple[str, ...]
