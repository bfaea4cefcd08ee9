"""Meta learning of class weights and class rates for a linear box classifier (BALMS).

The classifier is the only thing that the inner step moves, so the gradient of the meta loss needs
one forward of each batch and no second-order autograd; see :mod:`balms_det.meta.hypergradient`.
"""

from balms_det.meta.hypergradient import RoIBatch, Stage, hypergradient
from balms_det.meta.learners import (
    META_LEARNER_REGISTRY,
    MetaLearner,
    MetaReweighter,
    MetaSampler,
    build_meta_learner,
)
from balms_det.meta.step import MetaStep

__all__ = [
    "META_LEARNER_REGISTRY",
    "MetaLearner",
    "MetaReweighter",
    "MetaSampler",
    "MetaStep",
    "RoIBatch",
    "Stage",
    "build_meta_learner",
    "hypergradient",
]
