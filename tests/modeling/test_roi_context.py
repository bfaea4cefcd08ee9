"""What losses are told of RoIs, and the rows that they add to a batch."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from balms_det.losses import LOCELoss, build_box_loss
from balms_det.modeling import BoxPredictor
from balms_det.modeling.roi_context import describe_rois

K, D = 4, 8
BOXES = [[0.0, 0, 10, 10], [0.0, 0, 10, 10], [0.0, 0, 10, 9.8], [20.0, 20, 30, 30]]


def _objects(boxes, classes):
    objects = Instances((32, 32))
    objects.gt_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    objects.gt_classes = torch.tensor(classes, dtype=torch.long)
    return objects


def _rois(objects, matched, labels=None):
    rois = Instances((32, 32))
    if len(objects):
        rois.gt_boxes = objects.gt_boxes[torch.tensor(matched)]
    labels = objects.gt_classes[matched] if labels is None else torch.tensor(labels)
    rois.gt_classes = labels
    rois.proposal_boxes = Boxes(torch.zeros(len(labels), 4))
    return rois


def test_objects_are_numbered_over_the_batch_and_background_is_none():
    one, empty = _objects(BOXES, [0, 1, 2, 3]), _objects([], [])
    rois = [
        _rois(one, [3, 1, 3, 2], labels=[3, 1, 3, K]),
        _rois(empty, [], labels=[K, K]),
        _rois(one, [0]),
    ]
    described = describe_rois(rois, [one, empty, one], K, ["object_ids"])
    ids = [image.object_ids.tolist() for image in described]
    assert ids == [[3, 1, 3, -1], [-1, -1], [4]]
    assert not described[0].has("all_classes")


def test_boxes_of_several_classes_on_one_object():
    objects, empty = _objects(BOXES, [0, 1, 2, 3]), _objects([], [])
    rois = [_rois(objects, [0, 2, 3, 0], labels=[0, 2, 3, K]), _rois(empty, [], labels=[K])]
    classes = [r.all_classes for r in describe_rois(rois, [objects, empty], K, ["all_classes"])]
    toy = [True, True, True, False]
    assert classes[0].tolist() == [toy, toy, [False, False, False, True], [False] * K]
    assert classes[1].tolist() == [[False] * K]


def test_unknown_field_is_refused():
    with pytest.raises(ValueError, match="no field 'colour'"):
        describe_rois([], [], K, ["colour"])


@pytest.mark.parametrize("head", ["LongTailROIHeads", "LongTailCascadeROIHeads"])
@pytest.mark.parametrize("name", ["LOCELoss", "DecoupledSoftmaxLoss"])
def test_heads_fill_the_context_at_every_stage(tiny_cfg, batch, monkeypatch, head, name):
    tiny_cfg.MODEL.ROI_HEADS.NAME = head
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in head
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = name
    batch[1]["instances"].gt_boxes = Boxes(torch.tensor([[4.0, 10, 30, 50]]))
    model = build_model(tiny_cfg)
    seen = []
    original = BoxPredictor.classification_loss

    def watched(self, logits, gt_classes):
        seen.append((dict(self.cls_loss.context), gt_classes))
        return original(self, logits, gt_classes)

    monkeypatch.setattr(BoxPredictor, "classification_loss", watched)
    with EventStorage():
        model.train()(batch)
    assert len(seen) == (3 if "Cascade" in head else 1)
    for context, labels in seen:
        (key,) = context
        assert len(context[key]) == len(labels)
        foreground = labels < 5
        if key == "all_classes":
            own = torch.nn.functional.one_hot(labels, 6)[:, :5].bool()
            assert torch.equal(context[key], own)  # no two boxes on one object here
        else:
            label_of = torch.tensor([0, 3, 4])  # of the batch's three objects
            roi = foreground & (context[key] >= 0)
            assert torch.equal(label_of[context[key][roi]], labels[roi])
    predictors = [m for m in model.modules() if isinstance(m, BoxPredictor)]
    assert all(p.cls_loss.context == {} and p._features is None for p in predictors)


def _predictor(**arguments):
    torch.manual_seed(0)
    loss = build_box_loss("LOCELoss", K, **arguments)
    transform = Box2BoxTransform(weights=(10, 10, 5, 5))
    return BoxPredictor(
        ShapeSpec(channels=D), cls_loss=loss, box2box_transform=transform, num_classes=K
    )


def _proposals(labels):
    rois = Instances((32, 32))
    rois.proposal_boxes = Boxes(torch.tensor([[2.0, 2, 20, 20]]).repeat(len(labels), 1))
    rois.gt_boxes = Boxes(torch.tensor([[4.0, 3, 22, 25]]).repeat(len(labels), 1))
    rois.gt_classes = torch.tensor(labels)
    return [rois]


def _losses(predictor, features, labels):
    with EventStorage() as storage:
        losses = predictor.losses(predictor(features), _proposals(labels))
        return losses, {key: value for key, (value, _) in storage.latest().items()}


def test_memory_rows_count_in_the_classification_loss_alone(monkeypatch):
    features, labels = torch.randn(5, D), [0, 3, K, 2, K]
    rows = []
    per_roi = LOCELoss.per_roi

    def watched(self, logits, gt_classes):
        rows.append(len(logits))
        return per_roi(self, logits, gt_classes)

    monkeypatch.setattr(LOCELoss, "per_roi", watched)
    with_rows, logged = _losses(_predictor(sampled_classes=2, sampled_features=3), features, labels)
    without, plainly = _losses(_predictor(queue_size=0), features, labels)
    assert rows == [5 + 6, 5]
    assert torch.equal(with_rows["loss_box_reg"], without["loss_box_reg"])
    assert logged == plainly
    assert not torch.equal(with_rows["loss_cls"], without["loss_cls"])


def test_memory_trains_the_classifier_and_not_the_features():
    predictor = _predictor()
    features = torch.randn(3, D)
    _losses(predictor, features, [1, 1, 1])
    alone = torch.randn(1, D, requires_grad=True)
    losses, _ = _losses(predictor, alone, [K])
    losses["loss_cls"].backward()
    assert alone.grad is not None and predictor.cls_score.weight.grad.abs().sum() > 0
    assert not predictor.cls_loss.memory.features.requires_grad


def test_evaluation_stores_no_features():
    predictor = _predictor().eval()
    predictor(torch.randn(3, D))
    assert predictor._features is None and not predictor.cls_loss.memory.filled().any()
