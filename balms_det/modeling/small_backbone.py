"""A residual network of ten layers with a feature pyramid, small enough to train on a CPU."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, ResNet


@BACKBONE_REGISTRY.register()
def build_small_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build it out of Detectron2's own blocks, one basic block a stage (He et al., CVPR 2016).

    Args:
        cfg: reads ``MODEL.RESNETS`` (``STEM_OUT_CHANNELS``, ``RES2_OUT_CHANNELS``, doubled from
            stage to stage, and ``NORM``) and ``MODEL.FPN``.
        input_shape: channels of the image.

    Returns:
        A backbone with the features p2 to p6.
    """
    resnets = cfg.MODEL.RESNETS
    stem = BasicStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, resnets.NORM)
    inputs = [resnets.STEM_OUT_CHANNELS] + [resnets.RES2_OUT_CHANNELS * 2**i for i in range(3)]
    stages = [
        ResNet.make_stage(
            BasicBlock,
            1,
            in_channels=in_channels,
            out_channels=resnets.RES2_OUT_CHANNELS * 2**i,
            stride_per_block=[2 if i else 1],
            norm=resnets.NORM,
        )
        for i, in_channels in enumerate(inputs)
    ]
    features = cfg.MODEL.FPN.IN_FEATURES
    return FPN(
        bottom_up=ResNet(stem, stages, out_features=features),
        in_features=features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
