"""Datasets, configs and detectors of the other rooms, for the GPU; float32 without TF32."""

import pytest
import torch

from tests.engine.conftest import icons, make_cfg, small_options  # noqa: F401
from tests.modeling.conftest import batch, tiny_cfg  # noqa: F401


@pytest.fixture(autouse=True)
def _full_float32(monkeypatch):
    """Convolutions of cuDNN round to 10 bits otherwise, and nothing equals the CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def gpu_cfg(tiny_cfg):  # noqa: F811
    tiny_cfg.MODEL.DEVICE = "cuda"
    return tiny_cfg
