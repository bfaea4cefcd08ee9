"""Memory stays flat; ``python -m tests.soak.long_run`` runs long enough to see the time too."""

import gc

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase

from balms_det.engine.hooks import build_rate_history
from tests.soak import long_run


class CountObjects(HookBase):
    """Tensors, and objects of all kinds that can be in a cycle, after every tenth iteration."""

    def __init__(self):
        self.tensors, self.objects = [], []

    def after_step(self):
        if self.trainer.iter % 10 == 9:
            gc.collect()
            alive = gc.get_objects()
            self.tensors.append(sum(issubclass(type(one), torch.Tensor) for one in alive))
            self.objects.append(len(alive))


def seldom_recorded(cfg):
    """The history of rates keeps a hundred records of a run: too many of a short one."""
    history = build_rate_history(cfg)
    history.period = 10**6
    return history


@pytest.mark.slow
def test_iterations_leave_nothing_behind(tmp_path, monkeypatch):
    """Counted exactly: resident memory would need thousands of iterations to tell."""
    monkeypatch.setattr("balms_det.engine.hooks.LENGTH", 20)
    monkeypatch.setattr("balms_det.engine.trainer.build_rate_history", seldom_recorded)
    monkeypatch.setattr(long_run, "Meter", CountObjects)
    counted = long_run.train(tmp_path, iterations=150, period=60)
    late = slice(8, -1)  # after a checkpoint and an evaluation, before the picture at the end
    assert len(set(counted.tensors[late])) == 1, counted.tensors
    # An evaluation leaves some dozens, an iteration none.
    assert max(counted.objects[late]) - min(counted.objects[late]) < 60, counted.objects


def run(seconds=0.01, more=0.0, kib=0.0, count=3000):
    rng = np.random.default_rng(0)
    times = seconds * (1 + 0.05 * rng.standard_normal(count)) + more * np.arange(count) / count
    memory = 800_000 + kib * np.arange(count) + 100 * rng.standard_normal(count)
    return long_run.Growth.of(list(times), list(memory))


def test_growth_is_told_from_noise():
    assert run().faults() == []
    assert "memory grows by 1.00 KiB" in run(kib=1.0).faults()[0]
    assert "an iteration of the last third" in run(more=0.003).faults()[0]
