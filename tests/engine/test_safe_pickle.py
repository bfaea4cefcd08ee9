"""Pickles of numpy arrays, and of anything else."""

import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from balms_det.engine.weights_files import RefusedError, load_arrays

ARRAYS = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">i4"),
    "half": np.ones((2, 1), np.float16),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.float64(2.5),
    "zero-dimensional": np.array(7),
    "text": np.array(["a", "bc"]),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_through_every_protocol(tmp_path, protocol):
    content = {"model": OrderedDict(ARRAYS), "__author__": "someone", "steps": (1, [None, b""])}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    loaded = load_arrays(tmp_path / "a.pkl")
    assert loaded["steps"] == content["steps"] and loaded["__author__"] == "someone"
    for name, expected in ARRAYS.items():
        actual = loaded["model"][name]
        assert actual.dtype.newbyteorder("=") == expected.dtype.newbyteorder("="), name
        assert actual.shape == np.shape(expected), name
        np.testing.assert_array_equal(actual, expected)


def test_arrays_of_python_2_and_numpy_1(tmp_path):
    """As the model zoo has them: text in place of bytes, and numpy's core under its old name."""
    raw = pickle.dumps({"w": np.arange(200, 203, dtype="u1")}, 2).replace(
        b"numpy._core", b"numpy.core"
    )
    (tmp_path / "a.pkl").write_bytes(raw)
    assert load_arrays(tmp_path / "a.pkl")["w"].tolist() == [200, 201, 202]
    python2 = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x02\xfe\x01tb."
    )
    (tmp_path / "b.pkl").write_bytes(python2)
    assert load_arrays(tmp_path / "b.pkl").tolist() == [254, 1]


@pytest.mark.parametrize(
    "content",
    [
        np.array([{}], dtype=object),
        np.zeros(2, dtype=[("a", "f4")]),
        np.ma.masked_array([1.0]),
        np.random.default_rng(0),
        Path("a"),
        {1, 2}.union,
        print,
        torch.zeros(1),
    ],
    ids=lambda content: type(content).__name__,
)
def test_nothing_else_is_admitted(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": content}))
    with pytest.raises(RefusedError):
        load_arrays(tmp_path / "a.pkl")


def test_a_dtype_cannot_lie_about_its_memory(tmp_path):
    """numpy itself would believe a float that says it holds Python objects."""
    raw = pickle.dumps(np.arange(2.0), 2)
    flags = next(  # the last number of the dtype's state
        position + 1
        for opcode, argument, position in pickletools.genops(raw)
        if opcode.name == "BININT1" and argument == 0 and position > raw.index(b"f8")
    )
    (tmp_path / "a.pkl").write_bytes(raw[:flags] + b"\x3f" + raw[flags + 1 :])
    assert load_arrays(tmp_path / "a.pkl").tolist() == [0.0, 1.0]
