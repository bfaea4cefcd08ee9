"""Every training step is seeded by seed, rank and iteration."""

from types import SimpleNamespace

import pytest
import torch

from balms_det.engine.hooks import SeedEveryStep


def drawn(seed, iteration):
    hook = SeedEveryStep(seed)
    hook.trainer = SimpleNamespace(iter=iteration)
    hook.before_step()
    return torch.rand(8).tolist()


def test_a_step_does_not_depend_on_those_before_it(monkeypatch):
    assert drawn(3, 5) == drawn(3, 5)
    others = [drawn(3, 6), drawn(4, 5)]
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: 1)
    others.append(drawn(3, 5))
    monkeypatch.undo()
    assert all(not set(other) & set(drawn(3, 5)) for other in others)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_seeded_too():
    def on_cuda(iteration):
        drawn(3, iteration)
        return torch.rand(8, device="cuda").tolist()

    assert on_cuda(5) == on_cuda(5) != on_cuda(6)
