"""The last layers of the box head, with a classification loss of balms_det's registry.

Symbols: see :mod:`balms_det.losses.core.base`. Box regression, its loss and the accuracy logs are
Detectron2's, through ``super()``; only what touches the class logits is replaced.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

from balms_det.data.class_stats import build_class_stats
from balms_det.losses import BOX_LOSS_REGISTRY, BoxLoss, ContextLoss, build_box_loss
from balms_det.meta import RoIBatch
from balms_det.modeling.fast_inference_hooks import with_fast_inference
from balms_det.modeling.roi_context import read_context

if TYPE_CHECKING:
    from balms_det.modeling.recording import RoIRecorder


class BoxPredictor(FastRCNNOutputLayers):
    """Detectron2's ``FastRCNNOutputLayers`` with its classification part owned by a loss.

    The state dict keeps Detectron2's names: ``cls_score`` (L outputs), ``bbox_pred``, and
    ``cls_loss`` for losses with running state.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, cls_loss: BoxLoss, **kwargs: Any):
        """
        Args:
            input_shape: shape of the box head's feature.
            cls_loss: the loss; its ``num_logits`` and ``reset_classifier`` shape ``cls_score``.
            kwargs: the arguments of ``FastRCNNOutputLayers``.

        Raises:
            ValueError: Detectron2's sigmoid or federated loss is switched on as well, or
                ``cls_loss`` is for another number of classes.
        """
        reject_second_loss(kwargs.get("use_sigmoid_ce", False), kwargs.get("use_fed_loss", False))
        super().__init__(input_shape, **kwargs)
        if cls_loss.num_classes != self.num_classes:
            raise ValueError(
                f"cls_loss is for {cls_loss.num_classes} classes, the box predictor for "
                f"{self.num_classes}"
            )
        self.cls_loss = cls_loss
        # Set by balms_det.modeling.recording for the time of a forward pass.
        self.recorder: RoIRecorder | None = None
        # What the classifier has read, kept until the loss is computed, where anybody asks for it.
        self._features: Tensor | None = None
        self.cls_score = self._shape_classifier(self.cls_score)

    inference = with_fast_inference(FastRCNNOutputLayers.inference)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        reject_second_loss_in(cfg)
        arguments = super().from_config(cfg, input_shape)
        arguments["cls_loss"] = build_loss_from_config(cfg)
        return arguments

    def start_from(self, predictor: FastRCNNOutputLayers) -> None:
        """Take over the freshly initialised layers of Detectron2's predictor of the same size."""
        self.bbox_pred = predictor.bbox_pred
        self.cls_score = self._shape_classifier(predictor.cls_score)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See ``FastRCNNOutputLayers.forward``: logits (R, L) and box deltas."""
        x = x.flatten(start_dim=1)
        if self.recorder is not None or (self.training and isinstance(self.cls_loss, ContextLoss)):
            self._features = x.detach()
        logits, deltas = super().forward(x)
        if self.recorder is not None and x.dtype in (torch.float16, torch.bfloat16):
            # The gradients that the meta step takes from the logits need full precision.
            with torch.autocast(x.device.type, enabled=False):
                logits = self.cls_score(x.float())
        return logits, deltas

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """See ``FastRCNNOutputLayers.losses``: ``loss_cls`` and ``loss_box_reg``, scalars."""
        logits, deltas = predictions
        features, self._features = self._features, None
        batch = RoIBatch(features, logits, _labels(proposals, logits.device))
        if self.recorder is not None and not self.recorder.regress:
            self.recorder.batches.append(batch)
            return {}
        logged = self.cls_loss.accuracy_scores(logits.detach())
        losses = super().losses((logged, deltas), proposals)
        if isinstance(self.cls_loss, ContextLoss):
            batch = self.in_context(batch, read_context(self.cls_loss, proposals))
        if self.recorder is not None:
            self.recorder.batches.append(batch)
            del losses["loss_cls"]
        else:
            weight = self.loss_weight.get("loss_cls", 1.0)
            loss = self.classification_loss(batch.logits, batch.gt_classes)
            losses["loss_cls"] = loss * weight
        if isinstance(self.cls_loss, ContextLoss):
            self.cls_loss.context = {}
        return losses

    def classification_loss(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """The scalar ``loss_cls`` before its weight. Override it to weigh single RoIs."""
        return self.cls_loss(logits, gt_classes)

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> list[Tensor]:
        """Scores of every image's proposals, each (R_i, K + 1), background last."""
        scores = self.cls_loss.scores(predictions[0])
        return scores.split([len(p) for p in proposals], dim=0)

    def in_context(self, batch: RoIBatch, context: dict[str, Tensor]) -> RoIBatch:
        """Set the context of a ``ContextLoss`` for a training batch; empty it after the loss.

        Args:
            batch: its features may be None, where nobody kept them: no rows are added then.
            context: fields of the RoIs, by name.

        Returns:
            The batch with the rows that the loss adds to it, last, and the loss's context.
        """
        self.cls_loss.context = context
        extra = None
        if batch.features is not None:
            extra = self.cls_loss.extra_rows(batch.features, batch.gt_classes)
        if extra is None:
            return replace(batch, context=self.cls_loss.context)
        features, gt_classes = extra
        return RoIBatch(
            cat([batch.features, features]),
            cat([batch.logits, self.cls_score(features)]),
            cat([batch.gt_classes, gt_classes]),
            self.cls_loss.context,
        )

    def _shape_classifier(self, linear: nn.Linear) -> nn.Module:
        """Give the freshly drawn ``linear``, (K + 1, D), the loss's number of outputs and bias.

        Rows are reused and extra ones drawn aside, so that the random stream, and with it the
        initial weights of all that is built later, does not depend on the loss.
        """
        rows = self.cls_loss.num_logits
        if rows != linear.out_features:
            with torch.random.fork_rng(devices=[]):
                resized = nn.Linear(linear.in_features, rows)
                nn.init.normal_(resized.weight, std=0.01)
                nn.init.zeros_(resized.bias)
            kept = min(rows, linear.out_features)
            with torch.no_grad():
                resized.weight[:kept] = linear.weight[:kept]
            linear = resized
        return self.cls_loss.reset_classifier(linear)


def _labels(proposals: list[Instances], device: torch.device) -> Tensor:
    if len(proposals) == 0:
        return torch.empty(0, dtype=torch.long, device=device)
    return cat([p.gt_classes for p in proposals], dim=0)


def build_loss_from_config(cfg: CfgNode) -> BoxLoss:
    """Build the loss that ``MODEL.ROI_BOX_HEAD.CLS_LOSS`` names.

    Keys of ``ARGS`` are the loss's keyword arguments in upper or lower case.
    """
    node = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS
    # A loss without counts needs no dataset, and an unknown name is an error whatever they are.
    counted = node.NAME in BOX_LOSS_REGISTRY and BOX_LOSS_REGISTRY.get(node.NAME).needs_class_stats
    stats = build_class_stats(cfg) if counted else None
    arguments = {key.lower(): value for key, value in node.ARGS.items()}
    return build_box_loss(node.NAME, cfg.MODEL.ROI_HEADS.NUM_CLASSES, stats, **arguments)


def reject_second_loss_in(cfg: CfgNode) -> None:
    """:func:`reject_second_loss` for the switches of a config."""
    head = cfg.MODEL.ROI_BOX_HEAD
    reject_second_loss(head.USE_SIGMOID_CE, head.USE_FED_LOSS)


def reject_second_loss(use_sigmoid_ce: bool, use_fed_loss: bool) -> None:
    """Raise ValueError when one of Detectron2's own classification losses is switched on."""
    switches = {"USE_SIGMOID_CE": use_sigmoid_ce, "USE_FED_LOSS": use_fed_loss}
    on = " and ".join(name for name, value in switches.items() if value)
    if on:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.{on} is on, but the box loss is chosen by MODEL.ROI_BOX_HEAD."
            "CLS_LOSS.NAME. Switch it off and name SigmoidLoss there, or use Detectron2's "
            "StandardROIHeads for its own losses"
        )


def box_predictors(model: nn.Module) -> list[BoxPredictor]:
    """The box predictors of a detector, one, or in a cascade one a stage, in order.

    Raises:
        ValueError: it has none of balms_det.
    """
    found = [module for module in model.modules() if isinstance(module, BoxPredictor)]
    if not found:
        raise ValueError(
            "a meta learner needs ROI heads of balms_det: set MODEL.ROI_HEADS.NAME to "
            "LongTailROIHeads or LongTailCascadeROIHeads"
        )
    return found
