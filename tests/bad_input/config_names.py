"""What a config names: losses, calibrations, learners, samplers and datasets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from balms_det.annotations.class_identity import ClassListError
from balms_det.data.build import build_meta_loader, build_train_loader
from balms_det.data.class_stats import ClassStats, build_class_stats
from balms_det.engine import load_cfg
from balms_det.engine.meta_trainer import build_meta_step
from balms_det.evaluation import build_evaluator
from balms_det.modeling.box_predictor import build_loss_from_config
from balms_det.modeling.calibration import Head, build_calibration
from tests.bad_input.case import Case
from tests.bad_input.configs import LOSS, bad, pairs
from tests.bad_input.documents import coco, write, write_images

STATS = ClassStats([5, 1], [9, 1], 10)


def with_data(folder: Path, *words: str) -> CfgNode:
    """A config of a small dataset and these pairs."""
    root = write_images(folder)
    row = ["bad_input", write(folder / "train.json", coco()), root]
    data = ["DATASETS.FILES", repr([row]), "DATASETS.TRAIN", "('bad_input',)"]
    return load_cfg("", [*data, "DATALOADER.NUM_WORKERS", "0", *words])


def build(use: Callable[[CfgNode], Any], *words: str) -> Callable[[Path], Any]:
    return lambda folder: use(with_data(folder, *words))


def loss(name: str, *words: str) -> Callable[[Path], Any]:
    arguments = [f"{LOSS}.ARGS.{word}" if n % 2 == 0 else word for n, word in enumerate(words)]
    return build(build_loss_from_config, f"{LOSS}.NAME", name, *arguments)


def calibration(name: str, **arguments: Any) -> Callable[[Path], Any]:
    return lambda folder: build_calibration(name, Head(2), STATS, **arguments)


def statistics(content: str) -> Callable[[Path], Any]:
    return lambda folder: build_calibration(
        "FRACAL", Head(2), STATS, statistics=write(folder / "s.json", content)
    )


NAMES = [
    bad("loss unknown", loss("SoftmaxLos"), "'SoftmaxLos'", "SoftmaxLoss"),
    bad(
        "loss argument unknown",
        loss("BalancedSoftmaxLoss", "TUA", "1"),
        "no tua",
        "tau=1.0",
        error=TypeError,
    ),
    bad(
        "loss argument a text",
        loss("BalancedSoftmaxLoss", "TAU", "much"),
        "tau",
        "finite",
        "'much'",
        error=TypeError,
    ),
    bad(
        "loss argument null",
        loss("BalancedSoftmaxLoss", "TAU", "None"),
        "tau",
        "None",
        error=TypeError,
    ),
    bad(
        "loss argument true",
        loss("SigmoidLoss", "PRIOR_PROB", "True"),
        "prior_prob",
        "True",
        error=TypeError,
    ),
    bad(
        "loss argument out of range",
        loss("SigmoidLoss", "PRIOR_PROB", "2.0"),
        "prior_prob",
        "between 0 and 1",
    ),
    bad("loss counts unknown", loss("BalancedSoftmaxLoss", "COUNTS", "pixel"), "pixel", "image"),
    bad("calibration unknown", calibration("NorCall"), "'NorCall'", "NorCal"),
    bad(
        "calibration argument",
        calibration("NorCal", gama=1),
        "no gama",
        "gamma=0.6",
        error=TypeError,
    ),
    bad(
        "calibration argument a text",
        calibration("TauNormalization", tau="x"),
        "tau",
        "'x'",
        error=TypeError,
    ),
    bad(
        "calibration without statistics",
        calibration("FRACAL"),
        "CALIBRATION.ARGS.STATISTICS",
        "tools/calibrate.py",
        error=FileNotFoundError,
    ),
    bad("statistics empty", statistics(""), "s.json is not a json file"),
    bad("statistics a list", statistics("[]"), "s.json", "object of tables"),
    bad("statistics without table", statistics("{}"), "s.json", "'fractal_dimension'"),
    bad(
        "statistics of another model",
        statistics('{"fractal_dimension": [1, 1, 1, 1]}'),
        "s.json",
        "2 classes",
        "own config",
    ),
    bad("statistics null", statistics('{"fractal_dimension": null}'), "s.json", "numbers"),
    bad("statistics NaN", statistics('{"fractal_dimension": [NaN, 1]}'), "s.json", "finite"),
    bad("statistics of no stages", statistics('{"stages": 5}'), "s.json", "'stages'"),
    bad("learner unknown", build(build_meta_step, "META.NAME", "Meta"), "'Meta'", "MetaSampler"),
    bad(
        "learner argument",
        build(build_meta_step, "META.NAME", "MetaSampler", "META.ARGS.DRAW", "2"),
        "no draw",
        "draws=1",
        error=TypeError,
    ),
    bad(
        "learner argument a text",
        build(build_meta_step, "META.NAME", "MetaSampler", "META.ARGS.DRAWS", "two"),
        "draws",
        "whole number",
        error=TypeError,
    ),
    bad(
        "meta loss unknown",
        build(build_meta_step, "META.NAME", "MetaReweighter", "META.LOSS", "x"),
        "META.LOSS",
        "paper, reference",
    ),
    bad(
        "meta set unknown",
        build(build_meta_loader, "META.DATASETS", "('no',)"),
        "'no'",
        "DATASETS.FILES",
        error=KeyError,
    ),
    bad(
        "meta sampler unknown",
        build(build_meta_loader, "META.SAMPLER", "no"),
        "META.SAMPLER",
        "ClassBalancedTrainingSampler",
        error=KeyError,
    ),
    bad(
        "meta batch negative",
        build(build_meta_loader, "META.IMS_PER_BATCH", "-1"),
        "META.IMS_PER_BATCH",
    ),
    bad(
        "sampler unknown",
        build(build_train_loader, "DATALOADER.SAMPLER_TRAIN", "RFS"),
        "'RFS'",
        "RepeatFactorTrainingSampler",
        error=KeyError,
    ),
    bad(
        "sampler without its key",
        build(build_train_loader, "DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler"),
        "DATASETS.TRAIN_REPEAT_FACTOR",
        error=KeyError,
    ),
    bad(
        "batch of none",
        build(build_train_loader, "SOLVER.IMS_PER_BATCH", "0"),
        "SOLVER.IMS_PER_BATCH",
    ),
    bad(
        "copy-paste of polygons",
        build(build_train_loader, "INPUT.COPY_PASTE.ENABLED", "True", "MODEL.MASK_ON", "True"),
        "INPUT.MASK_FORMAT",
        "bitmask",
    ),
    bad(
        "copy-paste of no group",
        build(
            build_train_loader,
            "INPUT.COPY_PASTE.ENABLED",
            "True",
            "INPUT.MASK_FORMAT",
            "bitmask",
            "INPUT.COPY_PASTE.GROUPS",
            "['x']",
        ),
        "GROUPS",
        "['x']",
    ),
]
DATA = [
    bad("no training data", build(build_train_loader, "DATASETS.TRAIN", "()"), "DATASETS.TRAIN"),
    bad(
        "nothing to count",
        build(build_class_stats, "DATASETS.TRAIN", "()"),
        "DATASETS.CLASS_COUNTS",
    ),
    bad(
        "training set unknown",
        pairs("DATASETS.TRAIN", "('no',)"),
        "'no'",
        "DATASETS.FILES",
        error=KeyError,
    ),
    bad(
        "counts unknown",
        build(build_class_stats, "DATASETS.CLASS_COUNTS", "no"),
        "'no'",
        error=KeyError,
    ),
    bad(
        "counts file missing",
        build(build_class_stats, "DATASETS.CLASS_COUNTS", "no.json"),
        "'no.json'",
        error=FileNotFoundError,
    ),
    bad(
        "counts of other classes",
        build(build_class_stats, "DATASETS.CLASS_COUNTS", "lvis_v1_train"),
        "1203",
        "'bad_input'",
        "2",
        error=ClassListError,
    ),
    bad(
        "wrong number of classes",
        build(build_train_loader, "MODEL.ROI_HEADS.NUM_CLASSES", "7"),
        "NUM_CLASSES is 7",
        "2 classes",
        "Remove the key",
    ),
    bad(
        "evaluator of unknown data",
        lambda f: build_evaluator(load_cfg(""), "no"),
        "'no'",
        "evaluator_type",
    ),
]
CASES: list[Case] = NAMES + DATA
