"""The threads that match images: an error in one of them comes out, and they end."""

import threading

import pytest
from lvis_cases import Case

from balms_det.evaluation import evaluate_lvis
from balms_det.evaluation.backends import rust_input, rust_stream

BATCH = 100
IMAGES = 3000  # enough that all of them are never done before the main thread has its turn


@pytest.fixture
def case(monkeypatch):
    """A dataset in as many batches as it has images."""
    monkeypatch.setattr(rust_stream, "_IMAGES_AT_A_TIME", 1)
    case = Case(0)
    case.truth["images"] = [{**case.images[0], "id": n} for n in range(1, IMAGES + 1)]
    for entry in (*case.truth["annotations"], *case.results):
        entry["image_id"] = 1
    return case


def at_a_batch(monkeypatch, event):
    """Call ``event`` when all threads have begun; returns a list that gets an item per batch."""
    begun, make = [], rust_input.instance_dicts

    def instance_dicts(*arguments):
        begun.append(None)
        if len(begun) == BATCH:
            event()
        return make(*arguments)

    monkeypatch.setattr(rust_input, "instance_dicts", instance_dicts)
    return begun


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_ends_a_batch_ends_all(case, monkeypatch, error):
    def fail():
        raise error

    threads, begun = threading.enumerate(), at_a_batch(monkeypatch, fail)
    with pytest.raises(error):
        evaluate_lvis(case.truth, case.results, "bbox")
    assert BATCH <= len(begun) < IMAGES
    assert threading.enumerate() == threads
