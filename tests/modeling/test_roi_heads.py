"""The heads with every loss; with SoftmaxLoss they are Detectron2's, to the last bit."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import Boxes, Instances

from balms_det.losses import BOX_LOSS_REGISTRY, build_box_loss
from balms_det.modeling import BoxPredictor, LongTailROIHeads, build_loss_from_config

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


@pytest.fixture
def counts_of_five(monkeypatch):
    """Counts in place of a dataset's."""
    stats = SimpleNamespace(
        image_count=[50, 20, 9, 3, 0], instance_count=[90, 30, 9, 3, 0], num_images=60
    )
    monkeypatch.setattr("balms_det.modeling.box_predictor.build_class_stats", lambda cfg: stats)
    return stats


@pytest.mark.parametrize(("name", "_"), PAIRS)
@pytest.mark.parametrize("loss", sorted(name for name, _ in BOX_LOSS_REGISTRY))
def test_every_loss_trains_and_predicts(tiny_cfg, run_model, counts_of_five, name, _, loss):
    tiny_cfg.MODEL.ROI_HEADS.NAME = name
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in name
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = loss
    model, losses, _, predictions = run_model(tiny_cfg)
    assert all(value.isfinite() for value in losses.values())
    assert all(len(found) > 0 and (found.pred_classes < 5).all() for found in predictions)
    predictors = [m for m in model.modules() if isinstance(m, BoxPredictor)]
    assert len(predictors) == (3 if "Cascade" in name else 1)
    assert len({id(p.cls_loss) for p in predictors}) == len(predictors)
    for predictor in predictors:
        assert predictor.cls_score.weight.grad.abs().sum() > 0


def test_arguments_come_from_the_config(tiny_cfg, counts_of_five):
    node = tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS
    node.NAME = "BalancedSoftmaxLoss"
    node.ARGS = CfgNode({"TAU": 0.5, "COUNTS": "instance"})
    found = build_loss_from_config(tiny_cfg).offsets
    expected = build_box_loss(node.NAME, 5, counts_of_five, tau=0.5, counts="instance").offsets
    assert torch.equal(found, expected)
    node.ARGS = CfgNode({"TUA": 0.5})
    with pytest.raises(TypeError, match=r"no tua\. It takes: .*tau=1\.0"):
        build_loss_from_config(tiny_cfg)
    node.NAME = "Softmax"
    with pytest.raises(ValueError, match=r"Registered: .*SoftmaxLoss"):
        build_loss_from_config(tiny_cfg)


@pytest.mark.parametrize("switch", ["USE_SIGMOID_CE", "USE_FED_LOSS"])
@pytest.mark.parametrize(("name", "_"), PAIRS)
def test_second_loss_is_refused(tiny_cfg, name, _, switch):
    tiny_cfg.MODEL.ROI_HEADS.NAME = name
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    tiny_cfg.MODEL.ROI_BOX_HEAD[switch] = True
    with pytest.raises(ValueError, match=f"{switch} is on"):
        build_model(tiny_cfg)


def test_heads_from_explicit_arguments():
    """As LazyConfig and plain Python build them."""
    heads = LongTailROIHeads(
        num_classes=3,
        batch_size_per_image=8,
        positive_fraction=0.25,
        proposal_matcher=Matcher([0.5], [0, 1]),
        box_in_features=["p2"],
        box_pooler=ROIPooler(2, [0.25], 0, "ROIAlignV2"),
        box_head=torch.nn.Flatten(),
        box_predictor=BoxPredictor(
            ShapeSpec(channels=16),
            cls_loss=build_box_loss("SigmoidLoss", 3),
            box2box_transform=Box2BoxTransform(weights=(10, 10, 5, 5)),
            num_classes=3,
            test_score_thresh=0.0,
        ),
    )
    proposals = Instances((32, 32), proposal_boxes=Boxes(torch.tensor([[1.0, 1, 20, 20]])))
    proposals.objectness_logits = torch.ones(1)
    found, _ = heads.eval()(None, {"p2": torch.randn(1, 4, 8, 8)}, [proposals])
    assert len(found[0]) == 3


def test_point_rend_mask_head_goes_with_our_box_loss(tiny_cfg, run_model, counts_of_five, tmp_path):
    """A third party's mask head and our box loss, both chosen by YAML alone."""
    add_pointrend_config(tiny_cfg)
    yaml = tmp_path / "point_rend.yaml"
    yaml.write_text(
        "MODEL:\n"
        "  ROI_HEADS: {NAME: LongTailROIHeads}\n"
        "  ROI_BOX_HEAD: {CLS_LOSS: {NAME: BalancedSoftmaxLoss, ARGS: {TAU: 1.0}}}\n"
        "  ROI_MASK_HEAD:\n"
        "    {NAME: PointRendMaskHead, POOLER_TYPE: '', FC_DIM: 32, NUM_FC: 1,\n"
        "     OUTPUT_SIDE_RESOLUTION: 7, IN_FEATURES: [p2], POINT_HEAD_ON: true}\n"
        "  POINT_HEAD: {NUM_CLASSES: 5, FC_DIM: 16, NUM_FC: 1, IN_FEATURES: [p2],\n"
        "    TRAIN_NUM_POINTS: 16, SUBDIVISION_STEPS: 2, SUBDIVISION_NUM_POINTS: 49}\n"
    )
    tiny_cfg.merge_from_file(str(yaml))
    model, losses, _, predictions = run_model(tiny_cfg)
    assert type(model.roi_heads.mask_head).__name__ == "PointRendMaskHead"
    assert type(model.roi_heads.box_predictor.cls_loss).__name__ == "BalancedSoftmaxLoss"
    assert losses.keys() >= {"loss_cls", "loss_box_reg", "loss_mask", "loss_mask_point"}
    assert all(value.isfinite() for value in losses.values())
    assert all(found.pred_masks.shape == (len(found), 64, 64) for found in predictions)
