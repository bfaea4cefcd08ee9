"""The threads that match images: an error in one of them comes out, and they end."""

import threading

import pytest
from lvis_cases import Case

from balms_det.evaluation import evaluate_lvis
from balms_det.evaluation.backends import hotcoco as rust
from balms_det.evaluation.backends import hotcoco as rust_input
from balms_det.evaluation.backends import hotcoco as rust_stream
from balms_det.evaluation.results import read as result_parts

BATCH = 100
IMAGES = 3000  # enough that all of them are never done before the main thread has its turn


@pytest.fixture
def case(monkeypatch):
    """A dataset in as many batches as it has images."""
    for module, name in (
        (rust, "_PART"),
        (rust_stream, "_IMAGES_AT_A_TIME"),
        (result_parts, "_PART"),
        (result_parts, "_PIECE"),
    ):
        monkeypatch.setattr(module, name, 1)
    case = Case(0)
    case.truth["images"] = [{**case.images[0], "id": n} for n in range(1, IMAGES + 1)]
    first = case.truth["annotations"][0]
    case.truth["annotations"] = [{**first, "id": n, "image_id": n} for n in range(1, IMAGES + 1)]
    return case


def detections(case, scattered):
    """On the second half of the images."""
    images = [n for n in range(1, IMAGES + 1) if n > IMAGES // 2] * (2 if scattered else 1)
    return [{**case.results[0], "image_id": n} for n in images]


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


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_ends_a_batch_ends_all(case, monkeypatch, error, scattered):
    def fail():
        raise error

    threads, begun = threading.enumerate(), at_a_batch(monkeypatch, fail)
    with pytest.raises(error):
        evaluate_lvis(case.truth, detections(case, scattered), "bbox")
    assert BATCH <= len(begun) < IMAGES
    assert threading.enumerate() == threads


def test_a_fault_that_is_read_late_ends_the_other_threads(case, monkeypatch):
    threads, begun = threading.enumerate(), at_a_batch(monkeypatch, lambda: None)
    results = detections(case, False)
    results[BATCH]["image_id"] = -1
    with pytest.raises(ValueError, match=f"entry {BATCH}: it has an image_id"):
        evaluate_lvis(case.truth, results, "bbox")
    assert len(begun) <= BATCH
    assert threading.enumerate() == threads


def test_every_image_with_an_instance_is_matched_once(case, monkeypatch):
    matched, make = [], rust_input.image_dicts

    def image_dicts(truth, detections, images):
        matched.extend(images.tolist())
        return make(truth, detections, images)

    monkeypatch.setattr(rust_input, "image_dicts", image_dicts)
    evaluate_lvis(case.truth, detections(case, False), "bbox")
    assert sorted(matched) == list(range(IMAGES))
