"""Imports that version 0.1 documented go on working, with a warning that gives the new name."""

import importlib
import sys

import pytest

import balms_det  # noqa: F401  admits them
from balms_det.utils.old_names import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_both_names_are_one_module(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__name__ == MOVED[old] == module.__spec__.name


def test_other_names_are_not_there():
    with pytest.raises(ModuleNotFoundError, match=r"balms_det\.engine\.classifiers"):
        importlib.import_module("balms_det.engine.classifiers")
