"""With SoftmaxLoss our heads are Detectron2's, to the last bit."""

import pytest
import torch

PAIRS = [
    ("LongTailROIHeads", "StandardROIHeads"),
    ("LongTailCascadeROIHeads", "CascadeROIHeads"),
]


def _same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_softmax_head_is_detectron2s(tiny_cfg, run_model, ours, theirs):
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in theirs
    results = []
    for name in (ours, theirs):
        tiny_cfg.MODEL.ROI_HEADS.NAME = name
        results.append(run_model(tiny_cfg))
    (model_a, losses_a, logged_a, found_a), (model_b, losses_b, logged_b, found_b) = results
    assert type(model_a.roi_heads).__name__ == ours
    _same(losses_a, losses_b)
    _same(model_a.state_dict(), model_b.state_dict())
    gradients = [{n: p.grad for n, p in m.named_parameters()} for m in (model_a, model_b)]
    _same(*gradients)
    assert logged_a == logged_b
    assert len(found_b[0]) > 0
    for one, other in zip(found_a, found_b):
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=0)
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, rtol=0, atol=0)
        assert torch.equal(one.pred_classes, other.pred_classes)
        assert torch.equal(one.pred_masks, other.pred_masks)
