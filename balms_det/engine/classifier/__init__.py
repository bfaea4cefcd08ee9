"""Training the classifier of a trained detector from cached features, without the detector."""

from balms_det.engine.classifier.class_samplers import ClassSampler
from balms_det.engine.classifier.detector_sampler import DetectorSampler
from balms_det.engine.classifier.methods import METHOD_REGISTRY, Method, build_method
from balms_det.engine.classifier.roi_pool import RoIPool
from balms_det.engine.classifier.run import open_source, train_once, train_seeds
from balms_det.engine.classifier.samplers import (
    ROI_SAMPLER_REGISTRY,
    RoISampler,
    build_roi_sampler,
)
from balms_det.engine.classifier.setup import Choices, Recipe, build_trainee, make_recipe
from balms_det.engine.classifier.train import ClassifierTrainer, build_classifier_trainer
from balms_det.engine.classifier.write import write_model

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
