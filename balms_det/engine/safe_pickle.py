"""Pickled numpy arrays, read without calling anything that the file names.

A pickle is a program: it names functions and calls them. The functions that a pickled array names
are replaced by those below, which make an array of numbers or text out of bytes; the rest of what
it may name are containers.

Symbols: a *global* is such a name, ``module.function``.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np


class RefusedError(pickle.UnpicklingError):
    """The pickle asks for something other than an array in containers."""


# Booleans, integers, floats, complex numbers, bytes and text. Not objects (O) or records (V).
_NUMBERS = re.compile(r"[<>=|]?(\?|[biufcSU][0-9]+)")


class _DType:
    """In place of ``numpy.dtype``, whose own state could say anything about its memory."""

    def __init__(self, code: Any, *_: Any):
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise RefusedError(f"an array of type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        order = order.decode("ascii") if isinstance(order, bytes) else order
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose content arrives after it was made."""

    def __new__(cls, *_: Any):
        raise RefusedError("an array without content")

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, is_fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        if not (isinstance(dtype, _DType) and isinstance(content, bytes) and _is_shape(shape)):
            raise RefusedError("an array of objects")
        super().__setstate__((int(version), shape, dtype.dtype, bool(is_fortran), content))


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)


def _reconstruct(kind: type, *_: Any) -> _Array:
    if kind is not _Array:
        raise RefusedError(f"an array of class {kind!r}")
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _scalar(dtype: _DType, content: bytes | str) -> np.generic:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.ndarray((), dtype.dtype, bytes(content))[()]


def _from_buffer(content: bytes | bytearray, dtype: _DType, shape: tuple, order: str) -> np.ndarray:
    array = np.frombuffer(bytes(content), dtype.dtype)
    return array.reshape(shape, order="F" if order == "F" else "C").copy()


def _encode(text: str, encoding: str) -> bytes:
    # Protocol 2 has no bytes, and writes them as this call.
    if encoding not in ("latin1", b"latin1"):
        raise RefusedError(f"text in {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


# What stands for a global of numpy. Its core was `numpy.core` before version 2.
NUMPY_GLOBALS: dict[str, Any] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _DType,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", _reconstruct),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}
_CONTAINERS = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "builtins.bytes": _no_bytes,
    "__builtin__.bytes": _no_bytes,
}


# What reading nonsense raises: what the documentation of `pickle` lists, and our stand-ins.
BROKEN = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = {**NUMPY_GLOBALS, **_CONTAINERS}
        if f"{module}.{name}" not in known:
            raise RefusedError(f"the global {module}.{name}")
        return known[f"{module}.{name}"]


def load_arrays(path: str | Path) -> Any:
    """The content of a pickle of arrays in containers, as Detectron2's model zoo has them.

    Text of Python 2 is read as Latin-1, as Detectron2 does.

    Raises:
        RefusedError: the file names anything else; the message says what.
        pickle.UnpicklingError: it is no pickle, or not all of one.
    """
    with open(path, "rb") as file:
        try:
            return _ArrayUnpickler(file, encoding="latin1").load()
        except BROKEN as error:
            raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error
