"""Class imprinting (Qi et al., "Low-Shot Learning with Imprinted Weights", CVPR 2018): a new class
for a trained detector from a few exemplar boxes, without training.

Symbols
    K   classes of the trained model; the new one has label K, and background moves to K + 1
    D   width of the feature that the classifier reads
    w   weight of the new class, (D,): the mean direction of its exemplars' features
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.annotations.instances import load_instances
from balms_det.annotations.summary import annotation_summary
from balms_det.data.mapper import StrictDatasetMapper
from balms_det.engine.identity import Identity, model_identity
from balms_det.engine.weights_files import IDENTITY
from balms_det.engine.written_model import check_written
from balms_det.losses import CosineClassifier
from balms_det.utils.files import atomic_path, write_atomically


def read_exemplars(
    cfg: CfgNode, json_file: str, image_root: str, category: str, limit: int | None = None
) -> list[dict]:
    """Images with the boxes of one category, as a model in training takes them, at test size.

    Args:
        cfg: config of the model.
        json_file, image_root: annotations in LVIS or COCO format, and their images.
        category: name of the category; all other annotations are ignored.
        limit: most boxes to take, in the order of the file; None for all.

    Raises:
        ValueError: the file has no such category, or no box of it.
    """
    names = annotation_summary(json_file).names or []
    if category not in names:
        raise ValueError(f"{json_file}: no category {category!r}; it has {', '.join(names)}")
    label = names.index(category)
    size = cfg.INPUT.MIN_SIZE_TEST
    mapper = StrictDatasetMapper(
        is_train=True,
        augmentations=[T.ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)],
        image_format=cfg.INPUT.FORMAT,
    )
    records, left = [], limit
    for record in load_instances(f"exemplars of {category}", json_file, image_root):
        boxes = [a for a in record["annotations"] if a["category_id"] == label][:left]
        if boxes:
            records.append(mapper({**record, "annotations": boxes}))
            left = None if left is None else left - len(boxes)
    if not records:
        raise ValueError(f"{json_file}: no box of category {category!r} to imprint")
    return records


@torch.no_grad()
def exemplar_directions(model: nn.Module, exemplars: Sequence[dict]) -> list[Tensor]:
    """w of every box predictor (one, or in a cascade one a stage), each (D,) of length 1."""
    was_training, heads = model.training, model.roi_heads
    model.eval()
    features: list[list[Tensor]] = [[] for _ in _stages(heads.box_head)]
    for record in exemplars:
        maps = model.backbone(model.preprocess_image([record]).tensor)
        maps = [maps[name] for name in heads.box_in_features]
        pooled = heads.box_pooler(maps, [record["instances"].gt_boxes.to(model.device)])
        for found, box_head in zip(features, _stages(heads.box_head)):
            found.append(F.normalize(box_head(pooled).flatten(start_dim=1), dim=1))
    model.train(was_training)
    return [F.normalize(torch.cat(found).mean(dim=0), dim=0) for found in features]


def grow(cfg: CfgNode, model: nn.Module, directions: Sequence[Tensor]) -> dict[str, Tensor]:
    """The state dict of the model with one class more.

    The box regression and mask outputs of the new class, where these are a class's own, are those
    of the class whose weight is most like w. State of the loss is left out: it is of K classes.

    Raises:
        ValueError: a classifier is not a cosine classifier, so that the length of w would count.
    """
    state = {k: v.clone() for k, v in model.state_dict().items() if ".cls_loss." not in k}
    heads = model.roi_heads
    cascade = isinstance(heads.box_predictor, nn.ModuleList)
    likest = 0
    for stage, (predictor, w) in enumerate(zip(_stages(heads.box_predictor), directions)):
        classifier, classes = predictor.cls_score, predictor.num_classes
        if not isinstance(classifier, CosineClassifier):
            raise ValueError(
                "imprinting needs a cosine classifier: train with a loss that has one, such as "
                f"NormalizedSoftmaxLoss; this model's is {type(predictor.cls_loss).__name__}"
            )
        prefix = f"roi_heads.box_predictor.{stage}." if cascade else "roi_heads.box_predictor."
        weight = classifier.weight[:classes].detach()
        likest = int((F.normalize(weight, dim=1) @ w.to(weight)).argmax())
        row = w.to(weight) * weight.norm(dim=1).mean()
        _insert(state, f"{prefix}cls_score.weight", classes, row.unsqueeze(0))
        if classifier.bias is not None:
            bias = classifier.bias[:classes].detach().mean(dim=0, keepdim=True)
            _insert(state, f"{prefix}cls_score.bias", classes, bias)
        if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
            _repeat(state, f"{prefix}bbox_pred", classes, likest)
    if cfg.MODEL.MASK_ON and not cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK:
        _repeat(state, "roi_heads.mask_head.predictor", classes, likest)
    return state


def imprint(
    cfg: CfgNode,
    model: nn.Module,
    exemplars: Sequence[dict],
    out: str | Path,
    category: str | None = None,
) -> tuple[Path, Path]:
    """Add a class to a trained model: writes ``model_imprinted.pth`` and ``config.yaml``.

    The config has K + 1 classes and no training set, whose class list it would not match. Where the
    new class is named, the checkpoint names all, and data to evaluate on are matched by name; else
    they must list the new category last, by id.

    Args:
        cfg, model: the trained model's, of K classes, with its weights loaded.
        exemplars: of :func:`read_exemplars`.
        out: folder to write to.
        category: name of the new class; None leaves the classes without names.

    Raises:
        ValueError: the model has a class of that name; see :func:`grow`; or what was written loads
            as another model.
    """
    identity = None
    if category is not None:
        identity = _grown_identity(model_identity(cfg, model), exemplars, category)
    state = grow(cfg, model, exemplar_directions(model, exemplars))
    weights, config = Path(out) / "model_imprinted.pth", Path(out) / "config.yaml"
    content: dict = {"model": state}
    if identity is not None:
        content[IDENTITY] = identity.plain()
    with atomic_path(weights) as part:
        torch.save(content, part)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES += 1
    cfg.MODEL.WEIGHTS = str(weights)
    cfg.DATASETS.TRAIN = ()
    cfg.DATASETS.CLASS_COUNTS = ""
    if category is not None:
        cfg.DATASETS.TEST = ()  # those have the classes from before
    cfg.OUTPUT_DIR = str(out)
    write_atomically(config, cfg.dump())
    check_written(config, state)
    return weights, config


def _grown_identity(old: Identity, exemplars: Sequence[dict], category: str) -> Identity:
    """The identity of the model with the new class, whose counts are those of its exemplars."""
    if category in (old.class_names or ()):
        raise ValueError(f"the model has a class {category!r} already: give the new one a name")
    names = None if old.class_names is None else [*old.class_names, category]
    images, boxes = len(exemplars), sum(len(record["instances"]) for record in exemplars)
    known = old.image_count is not None and old.instance_count is not None
    return dataclasses.replace(
        old,
        num_classes=old.num_classes + 1,
        class_names=names,
        image_count=[*old.image_count, images] if known else None,
        instance_count=[*old.instance_count, boxes] if known else None,
        num_images=old.num_images + images,
        frequency=None,
        colours=None,
    )


def _stages(part: nn.Module) -> list[nn.Module]:
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _insert(state: dict[str, Tensor], key: str, position: int, rows: Tensor) -> None:
    old = state[key]
    state[key] = torch.cat([old[:position], rows.to(old), old[position:]])


def _repeat(state: dict[str, Tensor], layer: str, classes: int, label: int) -> None:
    """Append to a layer, that has as many rows for each class, those of ``label``."""
    for key in (f"{layer}.weight", f"{layer}.bias"):
        rows = state[key].unflatten(0, (classes, -1))
        state[key] = torch.cat([rows, rows[label : label + 1]]).flatten(0, 1)
