"""Box-classification losses, usable without the rest of the package.

Every module of this folder is imported, so that its losses are registered: a new loss is a new
file. Each registered class is an attribute of the package by its name.
"""

import importlib
import pkgutil

from balms_det.losses.balanced_softmax import balanced_sigmoid_offsets, balanced_softmax_offsets
from balms_det.losses.class_balanced import effective_number_weights
from balms_det.losses.core.base import BOX_LOSS_REGISTRY, BoxLoss, build_box_loss, full_precision
from balms_det.losses.core.binary_terms import binary_cross_entropy_per_roi
from balms_det.losses.core.context import ROI_FIELDS, ContextLoss
from balms_det.losses.core.cosine import CosineClassifier
from balms_det.losses.core.families import (
    BackgroundSigmoidFamily,
    BinaryFamily,
    SigmoidFamily,
    SigmoidObjectnessFamily,
    SoftmaxFamily,
    SoftmaxObjectnessFamily,
)
from balms_det.losses.core.functional import shifted_cross_entropy
from balms_det.losses.core.priors import class_counts, count_bins, frequency_groups, image_frequency
from balms_det.losses.droploss import drop_factors
from balms_det.losses.eql import equalization_factors
from balms_det.losses.pcb import PairwiseBalance
from balms_det.losses.seesaw import seesaw_offsets
from balms_det.utils.registry import keyword_arguments

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

_LOSSES = dict(BOX_LOSS_REGISTRY)
globals().update(_LOSSES)

__all__ = [
    "BOX_LOSS_REGISTRY",
    "ROI_FIELDS",
    "BackgroundSigmoidFamily",
    "BinaryFamily",
    "BoxLoss",
    "ContextLoss",
    "CosineClassifier",
    "PairwiseBalance",
    "SigmoidFamily",
    "SigmoidObjectnessFamily",
    "SoftmaxFamily",
    "SoftmaxObjectnessFamily",
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
    *_LOSSES,
]
