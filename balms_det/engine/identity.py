"""What a checkpoint says of its model and its run: classes, loss, counts, and what it was made by.

A checkpoint of ours holds, beside the weights, a dict of plain values under ``balms_det``: the
class names in the order of the classifier's outputs, the loss and its arguments, the class counts
of the training data (with which a model is built where the data are not), colours of the classes
and, in a checkpoint of a training run, the run. So a file is recognised by what it is of, not by
the shapes of its tensors: 3 classes and background have as many rows as 4 classes without.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from torch import nn

from balms_det.annotations.class_identity import ClassList, check_same_order
from balms_det.data.class_stats import (
    ClassStats,
    build_class_stats,
    dataset_class_names,
    dataset_classes,
    dataset_source_name,
    stats_of,
)
from balms_det.engine.weights_files import IDENTITY, peek_checkpoint
from balms_det.losses import BOX_LOSS_REGISTRY, BoxLoss, build_box_loss
from balms_det.losses.core.families import SigmoidFamily, SoftmaxFamily
from balms_det.utils.file_cache import file_fingerprint
from balms_det.utils.local import found_path

logger = logging.getLogger(__name__)

# Suffixes of files that may hold an identity.
CHECKPOINTS = (".pth", ".safetensors", ".pkl")
# Where Detectron2's models lie, which have none: they are not fetched to look for it.
_ZOO = ("detectron2://", "catalog://")
# Under this key a calibration's statistics name the classes of their tables.
CLASSES = "classes"
# Longer values are not shown in messages.
LONG = 200


@dataclass(frozen=True)
class Run:
    """What a training run is, as far as its checkpoints depend on it.

    Attributes:
        facts: what must be the same for a run to be resumed, by what an error calls it.
        further: what may be changed on the way, with a warning.
    """

    facts: dict[str, str] = field(default_factory=dict)
    further: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Identity:
    """What a checkpoint says of its model; all of it plain values.

    Attributes:
        num_classes: K.
        class_names: K names in the order of the outputs; None where the data had none.
        loss: class name of the box loss; empty for other predictors than ours.
        loss_args: its keyword arguments.
        image_count, instance_count: K counts each of the training data; None where unknown.
        num_images: of the training data.
        frequency: K labels "r", "c" or "f", if the data carried their own.
        colours: K colours (red, green, blue; 0 to 255), if the data had some.
        run: of a training run's checkpoint.
    """

    num_classes: int
    class_names: list[str] | None = None
    loss: str = ""
    loss_args: dict[str, Any] = field(default_factory=dict)
    image_count: list[int] | None = None
    instance_count: list[int] | None = None
    num_images: int = 0
    frequency: list[str] | None = None
    colours: list[list[int]] | None = None
    run: Run | None = None

    def classes(self, source: str | os.PathLike) -> ClassList:
        """The classes; ``source`` is the checkpoint's path."""
        names = None if self.class_names is None else tuple(self.class_names)
        return ClassList(str(source), self.num_classes, names)

    def class_stats(self) -> ClassStats | None:
        """The class counts, if they are known."""
        if self.image_count is None or self.instance_count is None:
            return None
        counts = self.image_count, self.instance_count, self.num_images
        return ClassStats(*counts, self.class_names, self.frequency)

    def plain(self) -> dict[str, Any]:
        """Dicts, lists, text and numbers alone, as a checkpoint holds them."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))


def identity_in(checkpoint: Mapping[str, Any], source: str | os.PathLike) -> Identity | None:
    """The identity that a checkpoint holds; None for a file that says nothing of itself.

    Raises:
        ValueError: it is damaged.
    """
    content = checkpoint.get(IDENTITY)
    if content is None:
        return None
    try:
        found = msgspec.convert(content, Identity)
        found.class_stats()
        return found
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"{source}: what it says of its model is damaged: {error}") from error


def read_identity(path: str | os.PathLike) -> Identity | None:
    """The identity in a checkpoint file, without its tensors; None where there is none, where the
    file is not there (yet), and where it is none that could be loaded.

    Raises:
        ValueError: the identity is damaged.
    """
    path = str(path).partition("?")[0]
    if not path.endswith(CHECKPOINTS) or path.startswith(_ZOO):
        return None
    found = found_path(path)
    return None if found is None else identity_in(peek_checkpoint(found), path)


def model_identity(
    cfg: CfgNode, model: nn.Module | None = None, run: Run | None = None
) -> Identity:
    """The identity of a model of this config, for its checkpoint.

    Args:
        cfg: reads ``DATASETS``, ``MODEL.ROI_HEADS.NUM_CLASSES`` and ``CLS_LOSS``.
        model: whose loss is named; None for that of the config.
        run: that it is trained by.

    Raises:
        ValueError, KeyError, FileNotFoundError: see ``build_class_stats``.
    """
    node = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS
    loss = node.NAME if model is None else next(iter(_losses(model)), "")
    stats = _stats(cfg)
    names = None if stats is None else stats.names
    if names is None and cfg.DATASETS.TRAIN:
        names = dataset_class_names(cfg.DATASETS.TRAIN[0])
    return Identity(
        num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        class_names=None if names is None else list(names),
        loss=loss,
        loss_args={key.lower(): value for key, value in node.ARGS.items()} if loss else {},
        image_count=None if stats is None else stats.image_count.tolist(),
        instance_count=None if stats is None else stats.instance_count.tolist(),
        num_images=0 if stats is None else stats.num_images,
        frequency=None if stats is None or stats.frequency is None else list(stats.frequency),
        colours=_colours(cfg),
        run=run,
    )


def _stats(cfg: CfgNode) -> ClassStats | None:
    if not (cfg.DATASETS.TRAIN or cfg.DATASETS.CLASS_COUNTS):
        return None
    stats = build_class_stats(cfg)
    return stats if stats.num_classes == cfg.MODEL.ROI_HEADS.NUM_CLASSES else None


def _colours(cfg: CfgNode) -> list[list[int]] | None:
    if not cfg.DATASETS.TRAIN:
        old = read_identity(cfg.MODEL.WEIGHTS)
        return None if old is None else old.colours
    colours = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_colors")
    return None if colours is None else [[int(part) for part in colour] for colour in colours]


def _losses(model: nn.Module) -> list[str]:
    """Class names of the box losses of a model, by stage."""
    modules = (getattr(module, "cls_loss", None) for module in model.modules())
    return [type(loss).__name__ for loss in modules if loss is not None]


def config_classes(cfg: CfgNode) -> ClassList:
    """The classes that a config's model has to have, as far as its data tell."""
    if cfg.DATASETS.TRAIN:
        return dataset_classes(cfg.DATASETS.TRAIN[0])
    if cfg.DATASETS.CLASS_COUNTS:
        stats = stats_of(cfg.DATASETS.CLASS_COUNTS)
        if stats.num_classes == cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            return ClassList(cfg.DATASETS.CLASS_COUNTS, stats.num_classes, stats.names)
    return ClassList("the config (MODEL.ROI_HEADS.NUM_CLASSES)", cfg.MODEL.ROI_HEADS.NUM_CLASSES)


def check_evaluated_classes(cfg: CfgNode, name: str) -> None:
    """Whether a dataset that names its classes has those of the config's model, in its order.

    Raises:
        ClassListError: it has others.
    """
    names = MetadataCatalog.get(name).get("thing_classes")
    if names:
        own = ClassList.of(dataset_source_name(name), names)
        check_same_order(config_classes(cfg), own)


def check_statistics(cfg: CfgNode) -> None:
    """Whether the statistics file of a calibration is of the config's classes, in their order.

    Raises:
        ClassListError: it is of others.
    """
    path = cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.ARGS.get("STATISTICS", "")
    if not cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME or not os.path.isfile(str(path)):
        return
    with open(path, "rb") as file:
        content = json.load(file)
    names = content.get(CLASSES) if isinstance(content, dict) else None
    if isinstance(names, list):
        check_same_order(config_classes(cfg), ClassList.of(str(path), names))


@torch.no_grad()
def check_scores(identity: Identity, model: nn.Module, source: str) -> None:
    """Whether a model that is not to be trained reads a checkpoint's outputs as they were trained.

    The two losses are asked for scores of the same logits. K sigmoids and K + 1 softmax outputs may
    be exchanged, which the checkpointer converts.

    Raises:
        ValueError: the outputs mean something else to the model's loss.
    """
    predictors = [m for m in model.modules() if isinstance(getattr(m, "cls_loss", None), BoxLoss)]
    if not predictors or identity.loss not in BOX_LOSS_REGISTRY:
        return
    own, kind = predictors[0].cls_loss, BOX_LOSS_REGISTRY.get(identity.loss)
    stats = identity.class_stats()
    if kind.needs_class_stats and stats is None:
        return
    with torch.random.fork_rng(devices=[]):
        trained = build_box_loss(identity.loss, identity.num_classes, stats, **identity.loss_args)
        layer = trained.reset_classifier(nn.Linear(4, trained.num_logits))
        same_layer = type(layer) is type(predictors[0].cls_score)
    if same_layer and _alike(trained, own, next(model.parameters()).device):
        return
    if {_plain_scores(trained), _plain_scores(own)} == {"softmax", "sigmoid"} and same_layer:
        return
    raise ValueError(
        f"{source} was trained with {_loss_text(identity.loss, identity.loss_args)}, whose outputs "
        f"mean something else to {type(own).__name__}, as this config has it: set "
        "MODEL.ROI_BOX_HEAD.CLS_LOSS to the loss that it was trained with."
    )


def _alike(a: BoxLoss, b: BoxLoss, device: torch.device) -> bool:
    """Whether two losses make the same scores of the same logits."""
    if a.num_logits != b.num_logits:
        return False
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, a.num_logits, generator=generator)
    scores = a.scores(logits), b.scores(logits.to(device)).cpu()
    return scores[0].shape == scores[1].shape and torch.allclose(*scores, atol=1e-5)


def _plain_scores(loss: BoxLoss) -> str:
    """ "softmax" for K + 1 softmax outputs, "sigmoid" for K sigmoids, else nothing."""
    families = {SoftmaxFamily: "softmax", SigmoidFamily: "sigmoid"}
    kinds = [kind for family, kind in families.items() if type(loss).scores is family.scores]
    return kinds[0] if kinds else ""


def _loss_text(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in sorted(arguments.items()))})"


def run_of(cfg: CfgNode) -> Run:
    """The training run of a config whose datasets are registered."""
    head = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS
    facts = {
        "classes": _digest(config_classes(cfg).names or cfg.MODEL.ROI_HEADS.NUM_CLASSES),
        "loss": _loss_text(head.NAME, {key.lower(): value for key, value in head.ARGS.items()}),
        "training data": ", ".join(map(_data_text, cfg.DATASETS.TRAIN)),
        "class counts": _data_text(cfg.DATASETS.CLASS_COUNTS) if cfg.DATASETS.CLASS_COUNTS else "",
        "images of an iteration": str(cfg.SOLVER.IMS_PER_BATCH),
        "meta learner": _loss_text(cfg.META.NAME, cfg.META.ARGS),
        "model (node MODEL)": _digest(_trained_part(cfg.MODEL)),
    }
    further = {
        "ranks": str(comm.get_world_size()),
        "SEED": str(cfg.SEED),
        "SOLVER": _digest(_without(cfg.SOLVER, "MAX_ITER", "STEPS", "CHECKPOINT_PERIOD")),
        "INPUT": _digest(_without(cfg.INPUT, *(key for key in cfg.INPUT if key.endswith("_TEST")))),
        "sampler": f"{cfg.DATALOADER.SAMPLER_TRAIN}, {cfg.DATALOADER.REPEAT_THRESHOLD}",
    }
    return Run(facts, further)


def check_run(found: Run, own: Run, source: str) -> None:
    """Whether a checkpoint is of the run that is to be resumed.

    Raises:
        ValueError: it is of another run; the message says what differs.
    """
    differs = [name for name, value in own.facts.items() if found.facts.get(name) != value]
    if differs:
        old, new = found.facts.get(differs[0]), own.facts[differs[0]]
        shown = f" ({old} there, {new} here)" if len(f"{old}{new}") < LONG else ""
        raise ValueError(
            f"{source} is of another run, with another {differs[0]}{shown}"
            f"{''.join(f', {name}' for name in differs[1:])}: there is nothing to resume. Start "
            "over without --resume, or choose another OUTPUT_DIR."
        )
    for name, value in own.further.items():
        old = found.further.get(name)
        if old != value:
            shown = f": {old} there, {value} here" if len(f"{old}{value}") < LONG else ""
            logger.warning("%s was written with another %s%s", source, name, shown)


def _data_text(name: str) -> str:
    if name.endswith(CHECKPOINTS):
        return name
    registered = MetadataCatalog.get(name).get("json_file") if name in DatasetCatalog else None
    path = name if name.endswith(".json") else registered
    if not path or not os.path.isfile(path):
        return name
    return f"{os.path.basename(path)} (SHA-256 {file_fingerprint(path)['sha256'][:12]}...)"


def _trained_part(node: CfgNode) -> dict:
    """What of ``MODEL`` the training depends on, beside the loss."""
    part = _without(node, "WEIGHTS", "DEVICE")
    heads = part["ROI_BOX_HEAD"] = dict(part["ROI_BOX_HEAD"])
    for key in ("CALIBRATION", "CLS_LOSS"):
        heads.pop(key, None)
    return {
        key: _without(value, *(k for k in value if k.endswith("_TEST")))
        if isinstance(value, Mapping)
        else value
        for key, value in part.items()
    }


def _without(node: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in keys}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
