"""Puts a calibration on the box predictors of a model: balms_det's own or Detectron2's."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

from balms_det.data.class_stats import build_class_stats
from balms_det.losses.core.families import SigmoidFamily, SoftmaxFamily
from balms_det.modeling.calibration.base import (
    Calibration,
    Head,
    build_calibration,
    calibration_class,
)


class CalibratedPredictor:
    """Mixin of a box predictor whose scores go through ``calibration``."""

    calibration: Calibration

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> Sequence[Tensor]:
        """Calibrated scores of every image's proposals, each (R_i, K + 1)."""
        logits, deltas = predictions
        plain = super().predict_probs

        def to_scores(changed: Tensor) -> Tensor:
            return torch.cat(list(plain((changed, deltas), proposals)))

        scores = self.calibration(logits, to_scores, self.cls_score)
        return scores.split([len(p) for p in proposals], dim=0)


class CalibrationMixin:
    """ROI heads with the calibration of ``MODEL.ROI_BOX_HEAD.CALIBRATION``, at test time."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        arguments = super()._init_box_head(cfg, input_shape)
        node = cfg.MODEL.ROI_BOX_HEAD.CALIBRATION
        if node.NAME:
            counted = calibration_class(node.NAME).needs_class_stats
            stats = build_class_stats(cfg) if counted else None
            own = {key.lower(): value for key, value in node.ARGS.items()}
            predictors = arguments.get("box_predictors") or [arguments["box_predictor"]]
            calibrate_predictors(predictors, node.NAME, stats, **own)
        return arguments


@ROI_HEADS_REGISTRY.register()
class CalibratedROIHeads(CalibrationMixin, StandardROIHeads):
    """Detectron2's ``StandardROIHeads``, its own losses included, with a calibration."""


@ROI_HEADS_REGISTRY.register()
class CalibratedCascadeROIHeads(CalibrationMixin, CascadeROIHeads):
    """Detectron2's ``CascadeROIHeads``, its own losses included, with a calibration a stage."""


def calibrate_model(
    model: nn.Module, name: str, class_stats: Any = None, **kwargs: Any
) -> nn.Module:
    """Calibrate any Detectron2 model whose box predictors are ``FastRCNNOutputLayers``, in place.

    Calling it again replaces the calibration.

    Args:
        model: a built model, weights loaded or not.
        name, class_stats, kwargs: see :func:`build_calibration`.

    Returns:
        The model.

    Raises:
        ValueError: it has no such predictor, or one whose scores are neither softmax nor sigmoid;
            and what :func:`build_calibration` raises.
    """
    calibrate_predictors(box_predictors(model), name, class_stats, **kwargs)
    return model


def calibrate_predictors(
    predictors: Sequence[FastRCNNOutputLayers], name: str, class_stats: Any, **kwargs: Any
) -> None:
    """:func:`calibrate_model` for a list of predictors, one a stage."""
    heads = [head_of(predictor, stage) for stage, predictor in enumerate(predictors)]
    built = [build_calibration(name, head, class_stats, **kwargs) for head in heads]
    for predictor, calibration in zip(predictors, built):
        predictor.calibration = calibration.to(predictor.bbox_pred.weight.device)
        if not isinstance(predictor, CalibratedPredictor):
            predictor.__class__ = _calibrated(type(predictor))


def check_calibrated(cfg: CfgNode, model: nn.Module) -> None:
    """Raise ValueError when a config names a calibration and the model's heads did not read it."""
    name = cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME
    if name and not any(isinstance(module, CalibratedPredictor) for module in model.modules()):
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.CALIBRATION.NAME is {name!r}, but {cfg.MODEL.ROI_HEADS.NAME} does "
            "not read it. Name CalibratedROIHeads (or CalibratedCascadeROIHeads), which otherwise "
            "are Detectron2's own, or call balms_det.modeling.calibrate_model"
        )


def box_predictors(model: nn.Module) -> list[FastRCNNOutputLayers]:
    """The box predictors of a model, in the order of their stages.

    Raises:
        ValueError: there is none.
    """
    found = [module for module in model.modules() if isinstance(module, FastRCNNOutputLayers)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no FastRCNNOutputLayers: calibration is for R-CNN models"
        )
    return found


def head_of(predictor: FastRCNNOutputLayers, stage: int = 0) -> Head:
    """What kind of head a predictor is.

    Raises:
        ValueError: its loss makes scores in a way of its own.
    """
    classes = predictor.num_classes
    loss = getattr(predictor, "cls_loss", None)
    if loss is None:  # Detectron2's own predictor
        sigmoid = getattr(predictor, "use_sigmoid_ce", False)  # not in older releases
        return Head(classes, "sigmoid" if sigmoid else "softmax", stage)
    if isinstance(loss, SoftmaxFamily) and loss.num_logits == classes + 1:
        return Head(classes, "softmax", stage)
    if isinstance(loss, SigmoidFamily):
        return Head(classes, "sigmoid", stage)
    raise ValueError(
        f"calibration is for softmax and sigmoid heads; {type(loss).__name__} makes its scores in "
        "another way"
    )


@functools.cache
def _calibrated(predictor_class: type) -> type:
    return type(f"Calibrated{predictor_class.__name__}", (CalibratedPredictor, predictor_class), {})
