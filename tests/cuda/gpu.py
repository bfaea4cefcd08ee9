"""What the tests on a GPU share: the mark that skips them, and whether the host waits."""

import contextlib
import warnings

import pytest
import torch

DEVICE = torch.device("cuda")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@contextlib.contextmanager
def _debug_mode(mode):
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def no_waiting():
    """Inside, an operation that makes the host wait for the GPU is a RuntimeError."""
    return _debug_mode("error")


@contextlib.contextmanager
def count_waits():
    """The list that it gives grows by an entry for every wait of the host for the GPU."""
    found = []

    def note(message, *_, **__):
        if "synchronizing CUDA operation" in str(message):
            found.append(str(message))

    with warnings.catch_warnings(), _debug_mode("warn"):
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield found
