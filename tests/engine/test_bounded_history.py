"""The event storage keeps what writers read and no more."""

import pytest
from detectron2.engine import TrainerBase
from detectron2.utils.events import get_event_storage

from balms_det.engine import hooks as bounded_history


class Counting(TrainerBase):
    def run_step(self):
        get_event_storage().put_scalar("loss", float(self.iter))


@pytest.mark.parametrize("bounded", [True, False])
def test_only_the_last_values_are_kept(bounded, monkeypatch):
    monkeypatch.setattr(bounded_history, "LENGTH", 30)
    trainer = Counting()
    trainer.register_hooks([bounded_history.BoundedHistory()] * bounded)
    trainer.train(0, 100)
    history = trainer.storage.history("loss")
    assert len(history.values()) == (30 if bounded else 100)
    assert history.median(20) == 89.5 and history.latest() == 99.0
    assert history.global_avg() == pytest.approx(49.5)  # of all
