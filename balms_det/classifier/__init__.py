"""Training the classifier of a trained detector from cached features, without the detector."""

from balms_det.classifier.methods import METHOD_REGISTRY, Method, build_method
from balms_det.classifier.pool import RoIPool
from balms_det.classifier.recipe import Choices, Recipe, build_trainee, make_recipe
from balms_det.classifier.run import open_source, train_once, train_seeds, write_model
from balms_det.classifier.samplers import (
    ROI_SAMPLER_REGISTRY,
    ClassSampler,
    DetectorSampler,
    RoISampler,
    build_roi_sampler,
)
from balms_det.classifier.train import ClassifierTrainer, build_classifier_trainer

__all__ = [
    "METHOD_REGISTRY",
    "ROI_SAMPLER_REGISTRY",
    "Choices",
    "ClassSampler",
    "ClassifierTrainer",
    "DetectorSampler",
    "Method",
    "Recipe",
    "RoIPool",
    "RoISampler",
    "build_classifier_trainer",
    "build_method",
    "build_roi_sampler",
    "build_trainee",
    "make_recipe",
    "open_source",
    "train_once",
    "train_seeds",
    "write_model",
]
