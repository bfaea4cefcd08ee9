"""Fast inference in our heads and in anybody's model, with the same detections."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import cascade_rcnn, fast_rcnn
from test_fast_inference import assert_same

from balms_det.modeling import use_fast_inference
from balms_det.modeling.fast_inference_hooks import with_fast_inference

HEADS = ["StandardROIHeads", "CascadeROIHeads"]


def _model(cfg, heads):
    cfg.MODEL.ROI_HEADS.NAME = heads
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in heads
    torch.manual_seed(3)
    return build_model(cfg).eval()


def _predict(model, batch):
    with torch.no_grad():
        return [output["instances"] for output in model(copy.deepcopy(batch))]


def _refuse(*args):
    raise AssertionError("Detectron2's fast_rcnn_inference was called")


def _forbid_detectron2s(monkeypatch):
    for module in (fast_rcnn, cascade_rcnn):
        monkeypatch.setattr(module, "fast_rcnn_inference", _refuse)


@pytest.mark.parametrize("heads", HEADS)
def test_any_model_finds_the_same(tiny_cfg, batch, heads, monkeypatch):
    model = _model(tiny_cfg, heads)
    expected = _predict(model, batch)
    assert use_fast_inference(model) == {"StandardROIHeads": 1, "CascadeROIHeads": 4}[heads]
    assert use_fast_inference(model) == 0
    _forbid_detectron2s(monkeypatch)
    for one, other in zip(_predict(model, batch), expected):
        assert len(other) > 0
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_classes, other.pred_classes)
        assert torch.equal(one.pred_masks, other.pred_masks)
    _predict(copy.deepcopy(model), batch)


@pytest.mark.parametrize("heads", HEADS)
def test_other_models_stay_as_they_are(tiny_cfg, batch, heads, monkeypatch):
    use_fast_inference(_model(tiny_cfg, heads))
    model = _model(tiny_cfg, heads)
    _forbid_detectron2s(monkeypatch)
    with pytest.raises(AssertionError, match="was called"):
        _predict(model, batch)


@pytest.mark.parametrize("heads", ["LongTailROIHeads", "LongTailCascadeROIHeads"])
def test_our_heads_are_fast_by_default(tiny_cfg, batch, heads, monkeypatch):
    model = _model(tiny_cfg, heads)
    assert use_fast_inference(model) == 0
    _forbid_detectron2s(monkeypatch)
    assert len(_predict(model, batch)[0]) > 0


def test_equals_detectron2_on_a_models_predictions(tiny_cfg, batch, monkeypatch):
    tiny_cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 400
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 60
    model = _model(tiny_cfg, "StandardROIHeads")
    images = []

    def record(boxes, scores, shapes, *limits):
        images.extend(zip(boxes, scores, shapes))
        return fast_rcnn_inference(boxes, scores, shapes, *limits)

    fast_rcnn_inference = fast_rcnn.fast_rcnn_inference
    monkeypatch.setattr(fast_rcnn, "fast_rcnn_inference", record)
    _predict(model, batch)
    assert int((images[0][1] > 1e-4).sum()) > 2000
    for topk in (5, 100, 300, -1):
        assert_same(images, (1e-4, 0.5, topk))


def test_a_function_that_does_not_post_process_is_an_error():
    with pytest.raises(ValueError, match="predict_boxes does not call"):
        with_fast_inference(fast_rcnn.FastRCNNOutputLayers.predict_boxes)


def test_a_twin_keeps_its_signature_and_its_documentation():
    original = fast_rcnn.FastRCNNOutputLayers.inference
    twin = with_fast_inference(original)
    assert twin.__doc__ == original.__doc__ and twin.__qualname__ == original.__qualname__
    assert twin.__code__ is original.__code__
    assert original.__globals__["fast_rcnn_inference"] is fast_rcnn.fast_rcnn_inference
