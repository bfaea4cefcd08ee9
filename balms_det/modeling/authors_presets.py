"""The names and keys of the BALMS authors' own code, so that YAMLs written for it run unchanged.

``SigmoidROIHeads`` and ``BalancedSoftmaxROIHeads`` are ``LongTailROIHeads`` with the loss fixed;
``MODEL.ROI_HEADS.PRIOR_PROB`` is the loss's ``prior_prob``. Trainers call
:func:`translate_authors_keys` for the rest. New configs use ``LongTailROIHeads``.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY

from balms_det.modeling.roi_heads import LongTailROIHeads


class _PresetROIHeads(LongTailROIHeads):
    loss_name: str

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        cfg = cfg.clone()
        cfg.defrost()
        node = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS
        node.NAME = cls.loss_name
        node.ARGS.PRIOR_PROB = cfg.MODEL.ROI_HEADS.PRIOR_PROB
        return super()._init_box_head(cfg, input_shape)


@ROI_HEADS_REGISTRY.register()
class SigmoidROIHeads(_PresetROIHeads):
    """The authors' baseline: :class:`balms_det.losses.SigmoidLoss`."""

    loss_name = "SigmoidLoss"


@ROI_HEADS_REGISTRY.register()
class BalancedSoftmaxROIHeads(_PresetROIHeads):
    """The authors' Balanced Softmax on LVIS: :class:`balms_det.losses.BalancedSigmoidLoss`."""

    loss_name = "BalancedSigmoidLoss"


@ROI_HEADS_REGISTRY.register()
class BALMSROIHeads(BalancedSoftmaxROIHeads):
    """The authors' heads for the Meta Reweighter, which ``META_REWEIGHT: True`` switches on."""


def translate_authors_keys(cfg: CfgNode) -> None:
    """Write the authors' top-level keys as balms_det's, in place, in a config not yet frozen.

    ``DECOUPLE_TRAINING: True`` freezes all but the classifier: ``MODEL.DECOUPLED.ENABLED``.
    ``META_REWEIGHT: True`` is ``META.NAME: MetaReweighter`` with the meta loss and the learning
    rate of the authors' code.
    """
    if cfg.DECOUPLE_TRAINING:
        cfg.MODEL.DECOUPLED.ENABLED = True
    if cfg.META_REWEIGHT:
        cfg.META.NAME = "MetaReweighter"
        cfg.META.LOSS = "reference"
        cfg.META.LR = 0.01
