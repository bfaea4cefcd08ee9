"""A Mask R-CNN small enough for the CPU: ResNet-18, 32-channel FPN, 64-pixel images."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from balms_det import add_balms_config

NUM_CLASSES = 5
SIZE = 64


@pytest.fixture
def tiny_cfg():
    cfg = get_cfg()
    add_balms_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 64
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 32
    cfg.MODEL.ROI_HEADS.NAME = "LongTailROIHeads"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1e-4
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    return cfg


@pytest.fixture
def batch():
    """Two images, three boxes, with masks."""
    generator = torch.Generator().manual_seed(0)
    boxes = [[[8.0, 8, 40, 40], [30, 20, 60, 60]], [[4.0, 10, 30, 50]]]
    classes = [[0, 3], [4]]
    return [_record(b, c, generator) for b, c in zip(boxes, classes)]


def _record(boxes, classes, generator):
    instances = Instances((SIZE, SIZE))
    instances.gt_boxes = Boxes(torch.tensor(boxes))
    instances.gt_classes = torch.tensor(classes)
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, torch.tensor(boxes).int().tolist()):
        mask[y0:y1, x0:x1] = True
    instances.gt_masks = BitMasks(masks)
    image = torch.randint(0, 256, (3, SIZE, SIZE), generator=generator).float()
    return {"image": image, "instances": instances, "height": SIZE, "width": SIZE}


@pytest.fixture
def run_model(batch):
    """Build, train one step, predict: (model, losses, logged scalars, predictions)."""

    def run(cfg, seed=3):
        torch.manual_seed(seed)
        model = build_model(cfg)
        with EventStorage() as storage:
            losses = model.train()(copy.deepcopy(batch))
            sum(losses.values()).backward()
            logged = {name: value for name, (value, _) in storage.latest().items()}
        with torch.no_grad():
            predictions = [out["instances"] for out in model.eval()(batch)]
        return model, losses, logged, predictions

    return run
