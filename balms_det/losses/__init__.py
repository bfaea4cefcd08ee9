"""Box-classification losses, usable without the rest of the package."""

from balms_det.losses.adaptive_suppression import ACSLLoss
from balms_det.losses.balanced_softmax import (
    BalancedSigmoidLoss,
    BalancedSoftmaxLoss,
    balanced_sigmoid_offsets,
    balanced_softmax_offsets,
)
from balms_det.losses.base import (
    BOX_LOSS_REGISTRY,
    BoxLoss,
    full_precision,
)
from balms_det.losses.build import build_box_loss, keyword_arguments
from balms_det.losses.class_balanced import ClassBalancedLoss, effective_number_weights
from balms_det.losses.class_priors import (
    class_counts,
    count_bins,
    frequency_groups,
    image_frequency,
)
from balms_det.losses.cosine_classifier import CosineClassifier
from balms_det.losses.droploss import DropLoss, drop_weights
from balms_det.losses.equalization import EQLLoss, equalization_weights
from balms_det.losses.equalization_v2 import EQLv2Loss
from balms_det.losses.federated import FederatedLoss
from balms_det.losses.focal import FocalLoss
from balms_det.losses.functional import shifted_cross_entropy
from balms_det.losses.group_softmax import BAGSLoss
from balms_det.losses.ldam import LDAMLoss
from balms_det.losses.logit_adjustment import LogitAdjustedLoss
from balms_det.losses.objectness import (
    BackgroundSigmoidFamily,
    SigmoidObjectnessFamily,
    SoftmaxObjectnessFamily,
)
from balms_det.losses.seesaw import SeesawLoss, seesaw_offsets
from balms_det.losses.sigmoid import (
    BinaryFamily,
    SigmoidFamily,
    SigmoidLoss,
    binary_cross_entropy_per_roi,
)
from balms_det.losses.softmax import SoftmaxFamily, SoftmaxLoss

__all__ = [
    "BOX_LOSS_REGISTRY",
    "ACSLLoss",
    "BAGSLoss",
    "BackgroundSigmoidFamily",
    "BalancedSigmoidLoss",
    "BalancedSoftmaxLoss",
    "BinaryFamily",
    "BoxLoss",
    "ClassBalancedLoss",
    "CosineClassifier",
    "DropLoss",
    "EQLLoss",
    "EQLv2Loss",
    "FederatedLoss",
    "FocalLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "SeesawLoss",
    "SigmoidFamily",
    "SigmoidLoss",
    "SigmoidObjectnessFamily",
    "SoftmaxFamily",
    "SoftmaxLoss",
    "SoftmaxObjectnessFamily",
    "balanced_sigmoid_offsets",
    "balanced_softmax_offsets",
    "binary_cross_entropy_per_roi",
    "build_box_loss",
    "class_counts",
    "count_bins",
    "drop_weights",
    "effective_number_weights",
    "equalization_weights",
    "frequency_groups",
    "full_precision",
    "image_frequency",
    "keyword_arguments",
    "seesaw_offsets",
    "shifted_cross_entropy",
]
