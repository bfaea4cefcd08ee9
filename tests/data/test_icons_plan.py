import numpy as np
import pytest

from balms_det.icons import plan
from balms_det.icons.files import frequency


def test_default_tail_has_twenty_classes_in_each_group():
    counts = plan.long_tail(60, 3000)
    letters = [frequency(count) for count in counts]
    assert [letters.count(letter) for letter in "rcf"] == [20, 20, 20]
    assert (np.diff(counts) <= 0).all()
    assert counts[-1] == 1


@pytest.mark.parametrize("num_classes, num_images", [(60, 5), (1203, 3000), (1, 1), (3, 100)])
def test_any_size_is_possible(num_classes, num_images):
    counts = plan.long_tail(num_classes, num_images)
    assert counts.shape == (num_classes,)
    assert counts.min() >= 1
    assert counts.max() <= num_images
    assert counts.sum() <= plan.TRAIN_CLASSES_PER_IMAGE * num_images + num_classes


def test_each_class_is_in_exactly_its_number_of_images():
    counts = plan.long_tail(12, 80)
    images = plan.assign_classes(counts, 80, np.random.default_rng(0))
    seen = np.zeros(12, int)
    for classes in images:
        seen[list(set(classes))] += 1
    assert (seen == counts).all()


def test_validation_has_25_images_of_every_default_class():
    assert plan.balanced(60, 500).min() >= 25


def test_negatives_are_the_absent_look_alikes_and_never_what_is_shown():
    family = np.repeat(np.arange(5), 4)
    present = {0, 2, 17}
    chosen = plan.negatives(present, family, np.random.default_rng(0))
    assert {1, 3, 16, 18, 19} <= set(chosen)
    assert not present & set(chosen)
    assert chosen == sorted(set(chosen))


def test_negatives_when_everything_is_shown():
    assert plan.negatives({0, 1}, np.array([0, 0]), np.random.default_rng(0)) == []
