"""The feature memory and the rows that LOCE draws from it."""

import pytest
import torch

from balms_det.losses import build_box_loss
from balms_det.losses.core.feature_memory import FeatureMemory, draw_classes, sizes_of_groups
from balms_det.losses.core.functional import rank_in_class

K, D = 3, 2


def _rows(*values):
    return torch.tensor([[float(v), 0.0] for v in values])


def _kept(memory, label):
    return memory.features.view(-1, D)[:-1].view(K, -1, D)[label, :, 0].tolist()


def test_ranks_and_sizes_count_equal_elements():
    labels = torch.tensor([2, 0, 2, 2, 1, 0])
    assert rank_in_class(labels).tolist() == [0, 0, 1, 2, 0, 1]
    assert sizes_of_groups(labels).tolist() == [3, 2, 3, 3, 1, 2]


def test_the_oldest_features_make_room():
    memory = FeatureMemory(K, 3, D)
    memory.push(_rows(1, 2, 9, 5), torch.tensor([0, 0, K, 2]))
    assert memory.filled().tolist() == [2, 0, 1]
    memory.push(_rows(3, 4), torch.tensor([0, 0]))
    assert memory.filled().tolist() == [3, 0, 1]
    assert _kept(memory, 0) == [4, 2, 3] and _kept(memory, 2) == [5, 0, 0]
    assert not memory.features[-1].any()  # background left no trace


def test_a_batch_stores_no_more_than_a_queue_of_a_class():
    memory = FeatureMemory(K, 2, D)
    memory.push(_rows(1, 2, 3, 4), torch.tensor([1, 1, 1, 1]))
    assert _kept(memory, 1) == [1, 2] and memory.filled().tolist() == [0, 2, 0]


def test_features_too_large_for_half_precision_stay_finite():
    memory = FeatureMemory(K, 2, D)
    memory.push(_rows(1e6), torch.tensor([0]))
    assert memory.features.isfinite().all()


def test_draws_are_of_the_class_and_spread_over_its_features():
    memory = FeatureMemory(K, 4, D)
    memory.push(_rows(1, 2, 3, 7), torch.tensor([0, 0, 0, 1]))
    uniform = torch.tensor([[0.0, 0.4, 0.99], [0.0, 0.5, 0.99], [0.1, 0.2, 0.3]])
    rows, labels = memory.draw(torch.tensor([0, 1, 2]), uniform)
    assert rows[:, 0].tolist() == [1, 2, 3, 7, 7, 7, 0, 0, 0]
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, K, K, K]  # nothing is known of class 2


def test_classes_are_drawn_against_their_mean_score():
    score = torch.tensor([0.1, 0.9, 0.1, torch.inf], dtype=torch.float64)
    drawn = draw_classes(score, torch.rand(4000, generator=torch.Generator().manual_seed(0)))
    share = drawn.bincount(minlength=4) / 4000
    expected = torch.tensor([9 / 19, 1 / 19, 9 / 19, 0])
    torch.testing.assert_close(share, expected, atol=0.03, rtol=0)


def _loss(**arguments):
    loss = build_box_loss("LOCELoss", K, **arguments)
    return loss, loss.reset_classifier(torch.nn.Linear(D, K + 1))


def test_rows_join_the_batch_as_objects_of_their_own():
    loss, _ = _loss(queue_size=4, sampled_classes=2, sampled_features=3)
    labels = torch.tensor([0, 2, K])
    loss.context = {"object_ids": torch.tensor([0, 1, -1])}
    features, extra = loss.extra_rows(_rows(1, 2, 3), labels)
    assert features.shape == (6, D) and set(extra.tolist()) <= {0, 2}
    ids = loss.context["object_ids"]
    assert ids[:3].tolist() == [0, 1, -1]
    assert torch.equal(ids[3:], -2 - extra)
    logits = torch.zeros(9, K + 1, dtype=torch.float64)
    loss(logits, torch.cat([labels, extra]))
    objects = 1 + (extra == 0).any().int()  # the RoI, and all rows of the memory together
    mean = 0.9**objects * 0.01 + (1 - 0.9**objects) * 0.25
    assert loss.mean_score[0].item() == pytest.approx(mean.item())


def test_the_memory_is_in_the_checkpoint():
    loss, _ = _loss(queue_size=4)
    loss.extra_rows(_rows(1, 2), torch.tensor([0, 1]))
    resumed, _ = _loss(queue_size=4)
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(resumed.memory.features, loss.memory.features)
    assert resumed.memory.filled().tolist() == [1, 1, 0]


def test_without_a_memory_there_are_no_rows():
    loss, _ = _loss(queue_size=0)
    assert loss.extra_rows(_rows(1), torch.tensor([0])) is None
    assert not any(key.startswith("memory") for key in loss.state_dict())


def test_rows_need_the_classifier_to_have_been_made():
    with pytest.raises(RuntimeError, match="reset_classifier"):
        build_box_loss("LOCELoss", K).extra_rows(_rows(1), torch.tensor([0]))


def test_context_of_another_batch_is_refused():
    loss, _ = _loss()
    loss.context = {"object_ids": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match="object_ids of 2 RoIs but was called with 3"):
        loss(torch.zeros(3, K + 1), torch.tensor([0, 1, 2]))


def test_background_has_this_run_s_score_whatever_was_loaded():
    """Fine-tuning with another BG_SCORE does not go on with that of the run before."""
    old, _ = _loss(queue_size=0, bg_score=0.3)
    new, _ = _loss(queue_size=0, bg_score=0.02)
    new.load_state_dict(old.state_dict())
    logits, labels = torch.randn(4, K + 1, dtype=torch.float64), torch.tensor([0, 1, K, K])
    fresh, _ = _loss(queue_size=0, bg_score=0.02)
    assert torch.equal(new.per_roi(logits, labels), fresh.per_roi(logits, labels))
    assert new.mean_score[-1].item() == pytest.approx(0.02)
