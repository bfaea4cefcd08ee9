"""ROI heads whose box classifier is trained with a loss of balms_det's registry.

They differ from Detectron2's in the box predictor only, so any mask or keypoint head goes with
them. Without a cfg, build them from explicit arguments as Detectron2's own, with
:class:`balms_det.modeling.BoxPredictor` as ``box_predictor`` (or ``box_predictors``).
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import nn

from balms_det.losses import ContextLoss
from balms_det.modeling.box_predictor import BoxPredictor, reject_second_loss_in
from balms_det.modeling.calibration import CalibrationMixin
from balms_det.modeling.fast_inference_hooks import with_fast_inference
from balms_det.modeling.roi_context import describe_rois


class LongTailBoxMixin:
    """Puts a :class:`BoxPredictor`, with a loss of its own, in place of each of Detectron2's."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        reject_second_loss_in(cfg)
        arguments = super()._init_box_head(cfg, input_shape)
        if "box_predictors" in arguments:  # a cascade: one predictor a stage
            stages = zip(arguments["box_heads"], arguments["box_predictors"])
            arguments["box_predictors"] = [_replace(cfg, *stage) for stage in stages]
        else:
            stage = arguments["box_head"], arguments["box_predictor"]
            arguments["box_predictor"] = _replace(cfg, *stage)
        return arguments

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """See Detectron2's; RoIs also have the fields that the loss asks for."""
        sampled = super().label_and_sample_proposals(proposals, targets)
        return describe_rois(sampled, targets, self.num_classes, self._wanted_fields())

    def _wanted_fields(self) -> set[str]:
        cascade = isinstance(self.box_predictor, nn.ModuleList)
        predictors = self.box_predictor if cascade else [self.box_predictor]
        losses = [getattr(predictor, "cls_loss", None) for predictor in predictors]
        return {name for loss in losses if isinstance(loss, ContextLoss) for name in loss.reads}

    def _forward_mask(self, features: dict[str, torch.Tensor], instances: list[Instances]):
        # In stage 2 neither the mask head nor what it reads can learn: its loss is not computed.
        if self.training and self.mask_on and not _learns(self.mask_head, features):
            return {}
        return super()._forward_mask(features, instances)


@ROI_HEADS_REGISTRY.register()
class LongTailROIHeads(CalibrationMixin, LongTailBoxMixin, StandardROIHeads):
    """``StandardROIHeads`` with the loss of ``MODEL.ROI_BOX_HEAD.CLS_LOSS``."""


@ROI_HEADS_REGISTRY.register()
class LongTailCascadeROIHeads(CalibrationMixin, LongTailBoxMixin, CascadeROIHeads):
    """``CascadeROIHeads`` with the loss of ``MODEL.ROI_BOX_HEAD.CLS_LOSS``, one a stage."""

    # A cascade does not ask its predictors for their inference().
    _forward_box = with_fast_inference(CascadeROIHeads._forward_box)

    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        labelled = super()._match_and_label_boxes(proposals, stage, targets)
        return describe_rois(labelled, targets, self.num_classes, self._wanted_fields())


def _learns(head: nn.Module, features: dict[str, torch.Tensor]) -> bool:
    trained = any(parameter.requires_grad for parameter in head.parameters())
    return trained or any(feature.requires_grad for feature in features.values())


def _replace(cfg: CfgNode, box_head: nn.Module, predictor: FastRCNNOutputLayers) -> BoxPredictor:
    # Detectron2 has drawn its predictor's weights already: keep them, and draw ours aside, so that
    # the same seed gives the same model as without balms_det.
    with torch.random.fork_rng(devices=[]):
        replacement = BoxPredictor(
            cfg, box_head.output_shape, box2box_transform=predictor.box2box_transform
        )
    replacement.start_from(predictor)
    return replacement
