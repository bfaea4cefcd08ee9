"""What older versions of torch lack."""

import pytest
import torch

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


def needs_torch(major: int, minor: int, why: str) -> pytest.MarkDecorator:
    """Skip a test with an older torch."""
    return pytest.mark.skipif((major, minor) > TORCH, reason=f"before torch {major}.{minor} {why}")
