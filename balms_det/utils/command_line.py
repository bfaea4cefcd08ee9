"""What the tools share: a mistake of their user ends in one line and not in a traceback."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable
from typing import Any

from balms_det.utils.children import end_with_parent

# What the package raises for input that it cannot use, the system for files that it cannot read or
# write, and a training for numbers that are none. The values of a config reach constructors, which
# raise TypeError for a wrong one.
USER_ERRORS = (ValueError, KeyError, TypeError, OSError, ImportError, FloatingPointError)
# Set it to see where an error comes from.
VARIABLE = "BALMS_DET_TRACEBACK"


def one_line_errors(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorate a tool's ``main``, which returns an exit status, or None for 0.

    Where it raises one of ``USER_ERRORS``, ``error: ...`` goes to stderr and the status is 1.
    With the environment variable ``BALMS_DET_TRACEBACK`` the error is raised as it is.
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
            if os.environ.get(VARIABLE):
                raise
            print(f"error: {describe(error)}", file=sys.stderr)
            return 1

    return run


def describe(error: Exception) -> str:
    """The message of an error; that of a KeyError comes in quotes otherwise."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


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
