"""Detections are drawn in the colours of frequency groups, with the groups in the labels."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from balms_det.workflows.draw import FrequencyVisualizer, draw_detections, frequency_metadata

GREY = np.full((80, 120, 3), 128, np.uint8)


def _instances(*classes):
    found = Instances((80, 120))
    found.pred_boxes = Boxes(torch.tensor([[20.0, 15, 70, 60]] * len(classes)))
    found.scores = torch.full((len(classes),), 0.75)
    found.pred_classes = torch.tensor(classes, dtype=torch.long)
    found.pred_masks = torch.zeros(len(classes), 80, 120, dtype=torch.bool)
    found.pred_masks[:, 15:60, 20:70] = True
    return found


@pytest.fixture
def metadata():
    return frequency_metadata(["ant", "bee", "cow"], ["r", "c", "f"])


@pytest.mark.parametrize(("number", "channel"), [(0, 0), (2, 2)], ids=["rare red", "frequent blue"])
def test_a_masks_colour_is_its_groups(metadata, number, channel):
    drawn = draw_detections(GREY, _instances(number), metadata)
    assert drawn.shape == GREY.shape and drawn.dtype == np.uint8
    inside = drawn[52:58, 40:65].reshape(-1, 3).astype(int)
    others = np.delete(inside, channel, axis=1)
    assert (inside[:, channel] > 128).all() and (inside[:, channel] > others.max(axis=1)).all()
    assert inside.min() > 60  # the image shows through
    assert (drawn[:10, 100:] == 128).all()


def test_labels_name_class_group_and_score(metadata, monkeypatch):
    texts = []
    monkeypatch.setattr(
        FrequencyVisualizer, "draw_text", lambda self, text, *_, **__: texts.append(text)
    )
    draw_detections(GREY, _instances(0, 1), metadata)
    assert sorted(texts) == ["ant (r) 75%", "bee (c) 75%"]


def test_no_detection_leaves_the_image(metadata):
    assert np.array_equal(draw_detections(GREY, _instances(), metadata), GREY)


def test_scale_is_that_of_the_drawing(metadata):
    assert draw_detections(GREY, _instances(1), metadata, scale=2).shape == (160, 240, 3)


def test_names_and_groups_of_different_length_are_an_error():
    with pytest.raises(ValueError, match="2 class names do not go with 1"):
        frequency_metadata(["ant", "bee"], ["r"])
