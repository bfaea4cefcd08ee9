"""Checkpoint files of every format, read and written; what they may hold says :mod:`..trust`.

    .pth          torch; a model, or the whole state of a training run
    .pkl          Detectron2's and Detectron's model zoos: pickled numpy arrays
    .pyth         pycls
    .safetensors  tensors and text alone, a format without any code

What is read is a dict, as in Detectron2: ``model`` (name to tensor or array), and where it applies
``__author__``, ``matching_heuristics`` (parameters are found by the ends of their names) and the
other parts of a training run.

A pickle is a program: it names functions and calls them. The functions that a pickled array names
are replaced by those below, which make an array of numbers or text out of bytes; the rest of what
it may name are containers.

Symbols: a *global* is such a name, ``module.function``.

"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file

from balms_det.utils.files import atomic_path, write_atomically
from balms_det.utils.local import local_path
from balms_det.utils.trust import insist

# How torch's own reader says that it was asked for something else, and not that a file is broken.
# "Unsupported class" is that of torch 2.0.
_TORCH_REFUSES = re.compile(
    "global|reduce|can only|only persistent_load|blocked|unsupported class", re.IGNORECASE
)
_TEXTS = ("__author__", "matching_heuristics")
# Under this key a checkpoint says what its model is: balms_det.engine.identity.
IDENTITY = "balms_det"
# torch.load has learned it in version 2.1.
_MMAP = {"mmap": True} if "mmap" in inspect.signature(torch.load).parameters else {}


def local_weights(name: str) -> str:
    """Path on this machine of what ``MODEL.WEIGHTS`` names.

    An address (``detectron2://``, ``catalog://``, ``https://`` or another that Detectron2's
    ``PathManager`` knows) is fetched into its cache once, with a lock against other processes.

    Args:
        name: a path or an address; ``?matching_heuristics=True`` may follow.

    Raises:
        FileNotFoundError: there is no such file, or it cannot be fetched; where a copy can be put
            by hand, the message says from where and to where.
    """
    try:
        path = local_path(name.split("?")[0])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"MODEL.WEIGHTS: {error}") from error
    if not os.path.isfile(path):
        raise FileNotFoundError(f"MODEL.WEIGHTS: there is no file {name!r}")
    return path


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file; its suffix says the format, ``.pth`` if it is another.

    Raises:
        UntrustedFileError: it holds more than tensors, arrays and plain values.
        FileNotFoundError: it is not there.
        ValueError: it is no checkpoint of its kind, or not all of one.
    """
    readers = {".pkl": _read_pkl, ".pyth": _read_pyth, ".safetensors": _read_safetensors}
    checkpoint = readers.get(Path(path).suffix, _read_pth)(str(path))
    weights = checkpoint["model"]
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise ValueError(f"{path}: its 'model' is no dict of names and weights")
    return checkpoint


def peek_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds besides ``model``, as far as it can be had without its tensors'
    content; empty for a file that cannot be loaded. Nothing but plain values is ever built."""
    try:
        if Path(path).suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt", device="cpu") as file:
                return _of_texts(str(path), file.metadata() or {})
        loaded = load_arrays(path) if Path(path).suffix == ".pkl" else _mapped(str(path))
    except (pickle.UnpicklingError, safetensors.SafetensorError, RuntimeError, *BROKEN):
        return {}
    return {k: v for k, v in loaded.items() if k != "model"} if isinstance(loaded, dict) else {}


def _mapped(path: str) -> Any:
    """The content of a file of torch's, whose tensors stay on the disk where torch can do that."""
    if not zipfile.is_zipfile(path):
        return _torch_load(path)
    with _numpy_admitted():
        return torch.load(path, map_location="cpu", weights_only=True, **_MMAP)


def load_tensors(path: str | Path) -> Any:
    """``torch.load`` onto the CPU of a file of tensors, numpy arrays and plain values.

    Raises:
        UntrustedFileError: it holds something else.
        ValueError: it is no file of torch's, or not all of one.
    """
    return _guarded(str(path), _torch_load, lambda p: _torch_load(p, weights_only=False))


def _torch_load(path: str, weights_only: bool = True) -> Any:
    try:
        with _numpy_admitted():
            return torch.load(path, map_location="cpu", weights_only=weights_only)
    except OSError as error:
        if error.filename is not None:
            raise
        raise EOFError(str(error)) from error  # torch has looked for the end of a cut off file


def _numpy_admitted():
    # Runs save numpy scalars among their figures. Before torch 2.6 a name could not be given
    # another function than its own: there they are refused.
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < (2, 6):
        return contextlib.nullcontext()
    pairs = [(function, name) for name, function in NUMPY_GLOBALS.items()]
    return torch.serialization.safe_globals(pairs)


def _guarded(path: str, load: Callable[[str], Any], load_all: Callable[[str], Any]) -> Any:
    try:
        return load(path)
    except (pickle.UnpicklingError, RuntimeError, *BROKEN) as error:
        # torch wraps what it has found into advice on switching its check off.
        refused = isinstance(error, pickle.UnpicklingError)
        found = error.__context__ if refused and error.__context__ else error
        reason = str(found).split(" Please use ")[0].strip(" .")
        if not refused or not (isinstance(error, RefusedError) or _TORCH_REFUSES.search(reason)):
            raise ValueError(f"{path} is no checkpoint, or not all of it: {reason}") from error
    insist("pickle", f"{path} is no file of tensors and plain values alone ({reason})")
    return load_all(path)


def _read_pth(path: str) -> dict[str, Any]:
    loaded = load_tensors(path)
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a dict of weights")
    return loaded if "model" in loaded else {"model": loaded}


def _read_pkl(path: str) -> dict[str, Any]:
    loaded = _guarded(path, load_arrays, _unpickle)
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a dict of weights")
    if "model" in loaded and "__author__" in loaded:
        return loaded
    # Detectron's own: networks keep theirs in "blobs", among the momenta of the optimiser.
    blobs = loaded.get("blobs", loaded)
    weights = {key: value for key, value in blobs.items() if not key.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _unpickle(path: str) -> Any:
    with open(path, "rb") as file:
        return pickle.load(file, encoding="latin1")


def _read_pyth(path: str) -> dict[str, Any]:
    loaded = load_tensors(path)
    if not isinstance(loaded, dict) or "model_state" not in loaded:
        raise ValueError(f"{path} is no checkpoint of pycls: it has no 'model_state'")
    state = loaded["model_state"].items()
    weights = {key: value for key, value in state if not key.endswith("num_batches_tracked")}
    return {"model": weights, "__author__": "pycls", "matching_heuristics": True}


def _read_safetensors(path: str) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            texts = file.metadata() or {}
            checkpoint = {"model": {key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or not all of it: {error}") from error
    return {**checkpoint, **_of_texts(path, texts)}


def _of_texts(path: str, texts: dict[str, str]) -> dict[str, Any]:
    """What the texts of a safetensors file, or the json beside it, say."""
    found: dict[str, Any] = {}
    if "__author__" in texts:
        found["__author__"] = texts["__author__"]
    if texts.get("matching_heuristics") == "True":
        found["matching_heuristics"] = True
    beside = json_beside(path)
    if IDENTITY in texts:
        found[IDENTITY] = _decoded(path, texts[IDENTITY])
    elif beside.is_file():
        content = _decoded(str(beside), beside.read_bytes())
        if isinstance(content, dict) and IDENTITY in content:
            found[IDENTITY] = content[IDENTITY]
    return found


def _decoded(path: str, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: what it says of its model is no json: {error}") from error


def json_beside(path: str | Path) -> Path:
    """The file beside safetensors that says, to read, what the model is."""
    return Path(path).with_suffix(".json")


def write_weights(path: str | Path, checkpoint: dict[str, Any]) -> list[str]:
    """Write the weights of a checkpoint, whole or not at all; the suffix says the format.

    What it says of its model goes with them, for safetensors also into a ``.json`` beside the file.

    Args:
        path: ``.pth``, ``.safetensors``, or ``.pkl`` as in Detectron2's model zoo.
        checkpoint: what :func:`read_checkpoint` returns.

    Returns:
        Parts of the checkpoint that are left out, because they are no weights.

    Raises:
        ValueError: another suffix, or an entry of ``model`` that is no tensor.
    """
    tensors = {key: _tensor(key, value) for key, value in checkpoint["model"].items()}
    texts = {key: checkpoint[key] for key in (*_TEXTS, IDENTITY) if key in checkpoint}
    with atomic_path(path) as part:
        if part.suffix == ".safetensors":
            # Said even where there is nothing to say: a .json beside may be of an older file.
            said = {IDENTITY: None, **texts}
            save_file(tensors, part, metadata={key: _text(value) for key, value in said.items()})
        elif part.suffix == ".pth":
            torch.save({"model": tensors, **texts}, part)
        elif part.suffix == ".pkl":
            arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
            content = {"model": arrays, "__author__": "balms_det", **texts}
            part.write_bytes(pickle.dumps(content))
        else:
            raise ValueError(f"{path}: weights are written as .pth, .pkl or .safetensors")
    if Path(path).suffix == ".safetensors" and IDENTITY in texts:
        content = {IDENTITY: texts[IDENTITY]}
        write_atomically(json_beside(path), json.dumps(content, indent=1) + "\n")
    return sorted(checkpoint.keys() - {"model", IDENTITY, *_TEXTS})


def _text(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, dict) else str(value)


def _tensor(key: str, value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor | np.ndarray):
        raise ValueError(f"{key!r} in the checkpoint is no tensor but a {type(value).__name__}")
    # Copied, so that tensors that shared memory are written as tensors of their own.
    return torch.as_tensor(value).detach().cpu().contiguous().clone()


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
