"""Box-classification losses, usable without the rest of the package."""

from balms_det.losses.acsl import ACSLLoss
from balms_det.losses.bags import BAGSLoss
from balms_det.losses.balanced_softmax import (
    BalancedSigmoidLoss,
    BalancedSoftmaxLoss,
    balanced_sigmoid_offsets,
    balanced_softmax_offsets,
)
from balms_det.losses.circle import CircleLoss
from balms_det.losses.class_balanced import ClassBalancedLoss, effective_number_weights
from balms_det.losses.core.base import BOX_LOSS_REGISTRY, BoxLoss, build_box_loss, full_precision
from balms_det.losses.core.binary_terms import binary_cross_entropy_per_roi
from balms_det.losses.core.context import ROI_FIELDS, ContextLoss
from balms_det.losses.core.cosine import CosineClassifier
from balms_det.losses.core.families import (
    BackgroundSigmoidFamily,
    BinaryFamily,
    SigmoidFamily,
    SigmoidLoss,
    SigmoidObjectnessFamily,
    SoftmaxFamily,
    SoftmaxLoss,
    SoftmaxObjectnessFamily,
)
from balms_det.losses.core.functional import shifted_cross_entropy
from balms_det.losses.core.priors import class_counts, count_bins, frequency_groups, image_frequency
from balms_det.losses.decoupled_softmax import DecoupledSoftmaxLoss, SoftTopKLoss
from balms_det.losses.droploss import DropLoss, drop_factors
from balms_det.losses.ecm import ECMLoss
from balms_det.losses.elastic_face import ElasticFaceLoss
from balms_det.losses.eql import EQLLoss, equalization_factors
from balms_det.losses.eqlv2 import EQLv2Loss
from balms_det.losses.fcbl import FCBLLoss
from balms_det.losses.federated import FederatedLoss
from balms_det.losses.focal import FocalLoss
from balms_det.losses.gumbel import GumbelDropLoss, GumbelEQLLoss, GumbelLoss
from balms_det.losses.ldam import LDAMLoss
from balms_det.losses.loce import LOCELoss
from balms_det.losses.logit_adjusted import LogitAdjustedLoss
from balms_det.losses.normalized_softmax import NormalizedSoftmaxLoss
from balms_det.losses.pcb import PairwiseBalance, PCBEQLv2Loss, PCBLoss, PCBSeesawLoss
from balms_det.losses.recall import RecallLoss
from balms_det.losses.seesaw import SeesawLoss, seesaw_offsets
from balms_det.losses.z_loss import ZLoss
from balms_det.utils.registry import keyword_arguments

__all__ = [
    "BOX_LOSS_REGISTRY",
    "ROI_FIELDS",
    "ACSLLoss",
    "BAGSLoss",
    "BackgroundSigmoidFamily",
    "BalancedSigmoidLoss",
    "BalancedSoftmaxLoss",
    "BinaryFamily",
    "BoxLoss",
    "CircleLoss",
    "ClassBalancedLoss",
    "ContextLoss",
    "CosineClassifier",
    "DecoupledSoftmaxLoss",
    "DropLoss",
    "ECMLoss",
    "EQLLoss",
    "EQLv2Loss",
    "ElasticFaceLoss",
    "FCBLLoss",
    "FederatedLoss",
    "FocalLoss",
    "GumbelDropLoss",
    "GumbelEQLLoss",
    "GumbelLoss",
    "LDAMLoss",
    "LOCELoss",
    "LogitAdjustedLoss",
    "NormalizedSoftmaxLoss",
    "PCBEQLv2Loss",
    "PCBLoss",
    "PCBSeesawLoss",
    "PairwiseBalance",
    "RecallLoss",
    "SeesawLoss",
    "SigmoidFamily",
    "SigmoidLoss",
    "SigmoidObjectnessFamily",
    "SoftTopKLoss",
    "SoftmaxFamily",
    "SoftmaxLoss",
    "SoftmaxObjectnessFamily",
    "ZLoss",
    "balanced_sigmoid_offsets",
    "balanced_softmax_offsets",
    "binary_cross_entropy_per_roi",
    "build_box_loss",
    "class_counts",
    "count_bins",
    "drop_factors",
    "effective_number_weights",
    "equalization_factors",
    "frequency_groups",
    "full_precision",
    "image_frequency",
    "keyword_arguments",
    "seesaw_offsets",
    "shifted_cross_entropy",
]
