"""One thread for all tests, where ``OMP_NUM_THREADS`` does not say otherwise: small tensors gain
nothing from more. The processes that tests start have as many, for these decide the last bits."""

import logging
import os

import pytest
import torch

torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1").split(",")[0]))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # of processes with more threads


@pytest.fixture(autouse=True)
def _handlers_end_with_their_test():
    """A tool that is run in this process logs to the streams of its test, which close with it."""
    loggers = [logging.getLogger(name) for name in ("balms_det", "detectron2", "fvcore")]
    before = [list(logger.handlers) for logger in loggers]
    yield
    for logger, handlers in zip(loggers, before):
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
