"""The predictor without a cfg: any loss, box regression untouched, logs on K + 1 columns."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from balms_det.losses import BOX_LOSS_REGISTRY, SigmoidLoss, build_box_loss
from balms_det.modeling import BoxPredictor

K, D = 4, 8
STATS = SimpleNamespace(image_count=[1, 5, 20, 60], instance_count=[2, 9, 40, 200], num_images=100)
ALL_LOSSES = sorted(name for name, _ in BOX_LOSS_REGISTRY)


def _arguments(**more):
    transform = Box2BoxTransform(weights=(10, 10, 5, 5))
    return {"box2box_transform": transform, "num_classes": K, **more}


def _predictor(name, **more):
    torch.manual_seed(0)
    loss = build_box_loss(name, K, STATS)
    return BoxPredictor(ShapeSpec(channels=D), cls_loss=loss, **_arguments(**more))


def _proposals(labels):
    instances = Instances((32, 32))
    instances.proposal_boxes = Boxes(torch.tensor([[2.0, 2, 20, 20]]).repeat(len(labels), 1))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 3, 22, 25]]).repeat(len(labels), 1))
    instances.gt_classes = torch.tensor(labels, dtype=torch.long)
    return [instances]


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_initialisation_and_random_stream_do_not_depend_on_the_loss(name):
    torch.manual_seed(0)
    theirs = FastRCNNOutputLayers(ShapeSpec(channels=D), **_arguments())
    after = torch.rand(3)
    ours = _predictor(name)
    assert torch.equal(torch.rand(3), after)
    assert torch.equal(ours.bbox_pred.weight, theirs.bbox_pred.weight)
    assert ours(torch.randn(2, D))[0].shape == (2, ours.cls_loss.num_logits)


@pytest.mark.parametrize("name", ["SigmoidLoss", "BalancedSigmoidLoss"])
def test_k_outputs_keep_the_first_rows(name):
    ours = _predictor(name)
    torch.manual_seed(0)
    theirs = FastRCNNOutputLayers(ShapeSpec(channels=D), **_arguments())
    assert torch.equal(ours.cls_score.weight, theirs.cls_score.weight[:K])


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_box_regression_is_detectron2s(name):
    ours = _predictor(name)
    torch.manual_seed(0)
    theirs = FastRCNNOutputLayers(ShapeSpec(channels=D), **_arguments())
    features = torch.randn(5, D)
    proposals = _proposals([0, 3, K, 2, K])
    with EventStorage():
        found = ours.losses(ours(features), proposals)
        expected = theirs.losses(theirs(features), proposals)
    assert found.keys() == expected.keys()
    assert torch.equal(found["loss_box_reg"], expected["loss_box_reg"])


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_classification_loss_is_the_losses_own(name):
    predictor = _predictor(name, loss_weight={"loss_cls": 2.0})
    features, labels = torch.randn(5, D), [0, 3, K, 2, K]
    # In evaluation mode no features are kept, from which a loss could add rows to the batch.
    logits, deltas = predictor.eval()(features)
    predictor.train()
    torch.manual_seed(1)  # the draws of losses that draw
    with EventStorage():
        found = predictor.losses((logits, deltas), _proposals(labels))["loss_cls"]
    torch.manual_seed(1)
    expected = 2.0 * build_box_loss(name, K, STATS)(logits, torch.tensor(labels))
    torch.testing.assert_close(found, expected)
    assert torch.autograd.grad(found, logits)[0].abs().sum() > 0


@pytest.mark.parametrize("images", [0, 1])
@pytest.mark.parametrize("name", ALL_LOSSES)
def test_no_proposal_at_all_keeps_every_gradient(name, images):
    # Without an image Detectron2's own box regression works class-agnostically only.
    predictor = _predictor(name, cls_agnostic_bbox_reg=images == 0)
    proposals = images * _proposals([])
    with EventStorage():
        losses = predictor.losses(predictor(torch.zeros(0, D)), proposals)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in predictor.parameters())


@pytest.mark.parametrize("name", ["SoftmaxLoss", "SigmoidLoss"])
def test_logs_know_background(name):
    predictor = _predictor(name)
    logits = torch.full((4, predictor.cls_loss.num_logits), -3.0)
    logits[0, 1] = 5.0
    if name == "SoftmaxLoss":
        logits[1:, K] = 1.0
    with EventStorage() as storage:
        predictor.losses((logits, torch.zeros(4, 4 * K)), _proposals([1, 2, K, K]))
        logged = {key: value for key, (value, _) in storage.latest().items()}
    assert logged["fast_rcnn/cls_accuracy"] == 0.75
    assert logged["fast_rcnn/fg_cls_accuracy"] == 0.5
    assert logged["fast_rcnn/false_negative"] == 0.5


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_scores_are_split_by_image(name):
    predictor = _predictor(name)
    predictions = predictor(torch.randn(5, D))
    parts = predictor.predict_probs(predictions, _proposals([0, 1]) + _proposals([2, 3, K]))
    assert [part.shape for part in parts] == [(2, K + 1), (3, K + 1)]
    assert torch.equal(torch.cat(parts), predictor.cls_loss.scores(predictions[0]))


def test_second_loss_is_refused():
    with pytest.raises(ValueError, match=r"USE_SIGMOID_CE is on.*CLS_LOSS\.NAME"):
        _predictor("SoftmaxLoss", use_sigmoid_ce=True)


def test_loss_for_other_classes_is_refused():
    with pytest.raises(ValueError, match="7 classes, the box predictor for 4"):
        BoxPredictor(ShapeSpec(channels=D), cls_loss=SigmoidLoss(7), **_arguments())
