"""Fast inference equals Detectron2's, to the last bit and in the same order."""

import random

import pytest
import torch
import torchvision
from detectron2.layers import batched_nms
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference as detectron2s

from balms_det.modeling import fast_inference
from balms_det.modeling.fast_inference import SHIFTED_CPU, fast_rcnn_inference

SIDE = 200
CASES = 30


def _boxes(generator, rows, classes, clusters):
    """(rows, 4 * classes) boxes around a few objects, some beyond the image and some empty."""
    centres = torch.rand(clusters, 2, generator=generator) * SIDE
    of_row = torch.randint(0, clusters, (rows,), generator=generator)
    corner = centres[of_row][:, None] + 6 * torch.randn(rows, classes, 2, generator=generator)
    size = 40 + 15 * torch.randn(rows, classes, 2, generator=generator)
    return torch.cat([corner, corner + size.clamp(min=0)], dim=2).flatten(1)


def _random_case(seed):
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    rows = draw.choice([0, 1, 7, 40, 80])
    classes = draw.choice([1, 3, 30, 60])
    agnostic = draw.random() < 0.3
    boxes = _boxes(generator, rows, 1 if agnostic else classes, draw.choice([1, 5, 40]))
    logits = torch.randn(rows, classes + 1, generator=generator) * draw.choice([0.1, 1, 4])
    scores = logits.softmax(1) if draw.random() < 0.7 else logits.sigmoid()
    if draw.random() < 0.3:  # ties
        scores = (scores * draw.choice([20, 1000])).round() / 1000
    if rows > 1 and draw.random() < 0.3:
        boxes[draw.randrange(rows), -1] = draw.choice([float("nan"), float("inf")])
        scores[draw.randrange(rows), draw.randrange(classes + 1)] = float("nan")
    threshold = draw.choice([-1.0, 0, 1e-4, 0.01, 0.3])
    topk = draw.choice([-1, 0, 1, 5, 20, 300])
    return (boxes, scores, (SIDE, SIDE + 20)), (threshold, draw.choice([0, 0.3, 0.5, 0.7, 1]), topk)


def assert_same(images, limits):
    """Both implementations, on lists of images; returns Detectron2's instances."""
    boxes, scores, shapes = (list(part) for part in zip(*images))
    ours = fast_rcnn_inference([b.clone() for b in boxes], scores, shapes, *limits)
    theirs = detectron2s(boxes, scores, shapes, *limits)
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours[0], theirs[0]):
        assert one.image_size == other.image_size
        assert one.get_fields().keys() == other.get_fields().keys()
        _assert_equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        _assert_equal(one.scores, other.scores)
        _assert_equal(one.pred_classes, other.pred_classes)
    for one, other in zip(ours[1], theirs[1]):
        _assert_equal(one, other)
    return theirs[0]


def _assert_equal(one, other):
    assert one.dtype == other.dtype and torch.equal(one, other)


@pytest.fixture
def routes(monkeypatch):
    """The ways taken: shifted boxes, the best candidates, all of them."""
    taken = []

    def spy(name, word):
        original = getattr(fast_inference, name)

        def call(*args):
            taken.append(word)
            return original(*args)

        monkeypatch.setattr(fast_inference, name, call)

    spy("batched_nms", "shifted")
    spy("_best_of_many", "best")
    spy("_best_of_all", "all")
    return taken


@pytest.mark.parametrize("first", range(0, 600, CASES))
def test_equals_detectron2_on_random_cases(first):
    for seed in range(first, first + CASES):
        image, limits = _random_case(seed)
        assert_same([image], limits)


def test_the_random_cases_take_every_way(routes):
    for seed in range(60):
        (boxes, scores, shape), limits = _random_case(seed)
        fast_rcnn_inference([boxes], [scores], [shape], *limits)
    assert {"shifted", "best", "all"} == set(routes)


def test_a_batch_of_images():
    images = [_random_case(seed)[0] for seed in (3, 4, 5)]
    assert_same(images, (1e-4, 0.5, 20))
    assert fast_rcnn_inference([], [], [], 0.0, 0.5, 10) == ([], [])


def _many(seed=0, rows=80, classes=60, clusters=40):
    generator = torch.Generator().manual_seed(seed)
    boxes = _boxes(generator, rows, classes, clusters)
    scores = torch.rand(rows, classes + 1, generator=generator)
    return boxes, scores, (SIDE, SIDE)


def _blocks(monkeypatch):
    sizes = []
    original = fast_inference._suppress

    def suppress(alive, block, nms_thresh):
        sizes.append(len(block.scores))
        return original(alive, block, nms_thresh)

    monkeypatch.setattr(fast_inference, "_suppress", suppress)
    return sizes


def test_stops_as_soon_as_enough_survive(monkeypatch):
    sizes = _blocks(monkeypatch)
    assert_same([_many()], (0.0, 0.5, 40))
    assert 40 < sum(sizes) < 100


def test_goes_on_when_too_few_survive(monkeypatch):
    sizes = _blocks(monkeypatch)
    assert_same([_many(rows=300, classes=20, clusters=1)], (0.0, 0.2, 40))
    assert len(sizes) > 2 and sum(sizes) < 1000


def test_takes_all_when_fewer_survive_than_are_wanted(routes):
    boxes, scores, shape = _many(rows=300, classes=12)
    boxes = torch.tensor([10.0, 10, 50, 50]).repeat(300, 12)
    found = assert_same([(boxes, scores, shape)], (0.0, 0.5, 30))[0]
    assert len(found) == 12
    assert routes == ["best", "all"]


@pytest.mark.parametrize("tied", [(0, 1), (39, 40)], ids=["within the best", "at the border"])
def test_equal_scores_of_survivors_take_detectron2s_order(tied, routes):
    boxes, scores, shape = _many()
    best = detectron2s([boxes], [scores], [shape], 0.0, 0.5, 50)[0][0]
    first, second = best.scores[list(tied)]
    scores[scores == first] = second
    assert_same([(boxes, scores, shape)], (0.0, 0.5, 40))
    assert routes == ["best", "all"]


def test_equal_scores_beyond_the_best_cost_nothing(routes):
    boxes, scores, shape = _many()
    scores[scores < 0.9] = 0.5
    assert_same([(boxes, scores, shape)], (0.0, 0.5, 40))
    assert routes == ["best"]


# Of IoU 0.38, or 0.33 when shifted to class 4000 of 1500 pixels, where float32 counts in halves.
CLOSE = torch.tensor([[0.0, 0, 2, 2], [0.9, 0, 2.9, 2]])
LARGE = torch.tensor([[0.0, 0, 1500, 1500]])
BETWEEN = 0.35


def test_float32_offsets_are_kept_below_the_switch():
    scores = torch.zeros(3, 4002)
    scores[:2, 4000] = torch.tensor([0.9, 0.8])
    scores[2, 1] = 0.5
    image = torch.cat([CLOSE, LARGE]), scores, (1500, 1500)
    assert len(assert_same([image], (0.1, BETWEEN, 10))[0]) == 3
    assert len(torchvision.ops.nms(CLOSE, scores[:2, 4000], BETWEEN)) == 1


def test_the_switch_is_where_torchvision_has_it():
    for count, survivors in ((SHIFTED_CPU, 2), (SHIFTED_CPU + 1, 1)):
        keep = batched_nms(
            torch.cat([CLOSE, LARGE.expand(count - 2, 4)]),
            torch.linspace(1, 0.5, count),
            torch.tensor([4000, 4000] + [1] * (count - 2)),
            BETWEEN,
        )
        assert int((keep < 2).sum()) == survivors


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_boxes_of_other_precision(dtype):
    boxes, scores, shape = _many()
    assert_same([(boxes.to(dtype), scores, shape)], (0.0, 0.5, 20))


def test_gradients_reach_the_scores():
    boxes, scores, shape = _many()
    scores.requires_grad_()
    fast_rcnn_inference([boxes], [scores], [shape], 0.0, 0.5, 20)[0][0].scores.sum().backward()
    assert int(scores.grad.sum()) == 20


@pytest.mark.parametrize("shape", [(80, 59 * 4), (79, 60 * 4), (80, 61 * 4)])
def test_boxes_that_do_not_go_with_the_scores_are_an_error(shape):
    with pytest.raises(ValueError, match=r"have to be \(80, 240\)"):
        fast_rcnn_inference([torch.zeros(shape)], [_many()[1]], [(9, 9)], 0.0, 0.5, 20)
