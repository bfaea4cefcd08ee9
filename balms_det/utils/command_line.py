"""What the tools share: a mistake of their user ends in one line and not in a traceback."""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import math
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from balms_det.utils.children import end_with_parent

# What the package raises for input that it cannot use, the system for files that it cannot read or
# write, and a training for numbers that are none. The values of a config reach constructors, which
# raise TypeError for a wrong one.
USER_ERRORS = (ValueError, KeyError, TypeError, OSError, ImportError, FloatingPointError)
# Set it to see where an error comes from.
VARIABLE = "BALMS_DET_TRACEBACK"
# The message of an error that torch raises again: a traceback with the error's own at its end.
_IN_WORKER = re.compile(
    r"Caught \w+ in .*? process \d+\.\nOriginal Traceback .*\n(?:[\w.]+)(?:: |\n)(\S.*?)\s*\Z", re.S
)
_FRAME = re.compile(r'^  File "(.+?)", line \d+, in .+\n    (.*)$', re.M)
_PACKAGE = f"{os.sep}balms_det{os.sep}"
# Lines of the package that call what was given by name or as a function, such as a loss by its
# arguments: a complaint of Python about these is one about the config.
_MEANT = re.compile(r"raise\b|.*\*\*")


def one_line_errors(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorate a tool's ``main``, which returns an exit status, or None for 0.

    Where it raises one of ``USER_ERRORS``, ``error: ...`` goes to stderr and the status is 1.
    With the environment variable ``BALMS_DET_TRACEBACK`` the error is raised as it is, and so is a
    fault of the package (:func:`is_fault`).
    """

    @functools.wraps(main)
    def run(*args: Any) -> int:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError):  # replaced by something without an encoding
                stream.reconfigure(errors="backslashreplace")  # for names that it cannot show
        end_with_parent()
        try:
            return main(*args) or 0
        except USER_ERRORS as error:
            if os.environ.get(VARIABLE) or is_fault(error):
                raise
            print(f"error: {describe(error)}", file=sys.stderr)
            return 1

    return run


def describe(error: Exception) -> str:
    """The message of an error; that of a KeyError comes in quotes otherwise.

    Of an error in a worker process of a data loader torch makes one whose message is the whole
    traceback there; the message of the error itself is what comes out.
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    in_worker = _IN_WORKER.match(text)
    if in_worker is None:
        return text
    quoted = isinstance(error, KeyError) and in_worker[1][0] in "'\""
    return ast.literal_eval(in_worker[1]) if quoted else in_worker[1]


def is_fault(error: Exception) -> bool:
    """Whether an error comes from a mistake of this package, and not from what it was given.

    Its own complaints are raised by a ``raise``, and what the system or another library cannot do
    by them; anything else that a line of the package raises nobody thought of.
    """
    if not isinstance(error, (ValueError, KeyError, TypeError)):
        return False
    frames = [(frame.filename, frame.line) for frame in traceback.extract_tb(error.__traceback__)]
    if _IN_WORKER.match(text := str(error.args[0]) if error.args else ""):
        frames = _FRAME.findall(text)
    return bool(frames) and _PACKAGE in frames[-1][0] and not _MEANT.match(frames[-1][1] or "raise")


def at_least(low: int) -> Callable[[str], int]:
    """An argparse type: a whole number that is not below ``low``."""

    def parse(text: str) -> int:
        number = int(text)
        if number < low:
            raise argparse.ArgumentTypeError(f"it must be {low} or more, got {text}")
        return number

    parse.__name__ = "whole number"  # what argparse calls it where the text is none
    return parse


def positive(text: str) -> float:
    """An argparse type: a finite number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"it must be a number above 0, got {text}")
    return number
