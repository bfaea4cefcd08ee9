"""Building losses by name: each mistake has an error that says what is legal."""

from types import SimpleNamespace

import pytest

from balms_det.losses import BalancedSoftmaxLoss, build_box_loss

STATS = SimpleNamespace(image_count=[1, 20], instance_count=[1, 50], num_images=40)


def test_arguments_reach_the_loss():
    loss = build_box_loss("BalancedSoftmaxLoss", 2, STATS, tau=0.0)
    assert isinstance(loss, BalancedSoftmaxLoss)
    assert loss.offsets.tolist() == [0.0, 0.0, 0.0]


def test_unknown_name_lists_the_registered():
    with pytest.raises(ValueError, match=r"'BalancedSoftmax'.*BalancedSoftmaxLoss, .*SoftmaxLoss"):
        build_box_loss("BalancedSoftmax", 2, STATS)


def test_wrong_keyword_lists_the_legal_with_defaults():
    with pytest.raises(TypeError, match=r"no gamma, t\. It takes: counts='image', tau=1\.0"):
        build_box_loss("BalancedSoftmaxLoss", 2, STATS, t=1, gamma=2)
    with pytest.raises(TypeError, match="It takes: no argument"):
        build_box_loss("SoftmaxLoss", 2, None, tau=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"counts": "boxes"}, "counts must be 'image' or 'instance'"),
        ({"background": "none"}, "background must be"),
        ({"background": "class", "background_ratio": 0.0}, "background_ratio must be positive"),
    ],
)
def test_illegal_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_box_loss("BalancedSoftmaxLoss", 2, STATS, **arguments)


def test_illegal_prior():
    with pytest.raises(ValueError, match="prior_prob"):
        build_box_loss("SigmoidLoss", 2, None, prior_prob=1.0)


def test_statistics_are_needed_only_where_they_are_read():
    build_box_loss("SoftmaxLoss", 2)
    build_box_loss("SigmoidLoss", 2)
    with pytest.raises(ValueError, match="BalancedSoftmaxLoss needs class_stats"):
        build_box_loss("BalancedSoftmaxLoss", 2)
    with pytest.raises(ValueError, match="at least 1"):
        build_box_loss("SoftmaxLoss", 0)
