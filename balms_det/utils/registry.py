"""Keyword arguments that come from a config: what a class takes, and of which kind."""

from __future__ import annotations

import inspect
import math
import numbers
from typing import Any

# What the builders give a loss, a calibration or a meta learner themselves.
_FROM_BUILDER = {"self", "num_classes", "class_stats", "head"}


def keyword_arguments(kind: type) -> dict[str, Any]:
    """The own keyword arguments of a loss, calibration or meta learner, and their defaults."""
    return {name: parameter.default for name, parameter in _parameters(kind).items()}


def check_keywords(kind: type, given: dict[str, Any]) -> None:
    """Raise TypeError for a keyword that the class does not take, or a value of another kind than
    the annotation of its constructor says: float (finite), int, bool, str, or None."""
    legal = _parameters(kind)
    wrong = sorted(set(given) - set(legal))
    if wrong:
        shown = ", ".join(f"{name}={value!r}" for name, value in keyword_arguments(kind).items())
        raise TypeError(
            f"{kind.__name__} takes no {', '.join(wrong)}. It takes: {shown or 'no argument'}"
        )
    for name, value in given.items():
        kinds = [part.strip() for part in _annotation(legal[name]).split("|")]
        if set(kinds) <= _KINDS.keys() and not any(_KINDS[k][1](value) for k in kinds):
            wanted = " or ".join(_KINDS[k][0] for k in kinds)
            raise TypeError(f"{kind.__name__}: {name} must be {wanted}, got {value!r}")


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(kind).parameters
    return {name: p for name, p in parameters.items() if name not in _FROM_BUILDER}


def _annotation(parameter: inspect.Parameter) -> str:
    given = parameter.annotation
    return given if isinstance(given, str) else inspect.formatannotation(given)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


_KINDS = {
    "float": ("a finite number", _is_number),
    "int": ("a whole number", _is_whole),
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "str": ("a text", lambda value: isinstance(value, str)),
    "None": ("None", lambda value: value is None),
}
