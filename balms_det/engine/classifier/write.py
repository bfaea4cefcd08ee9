"""What a training from a cache leaves: an ordinary checkpoint and the config that goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from balms_det.engine.child_config import as_yaml, child_content
from balms_det.engine.classifier.setup import Recipe
from balms_det.engine.partial_state import copy_into
from balms_det.engine.written_model import check_written
from balms_det.files import atomic_path, write_atomically

WEIGHTS, CONFIG = "model_final.pth", "config.yaml"
#: Parts of a parameter's name of which the trained classifier and its loss consist.
TRAINED_PARTS = {"cls_score", "cls_loss"}


def classifier_state(model: nn.Module) -> dict[str, Tensor]:
    """The part of a detector's state dict that the training may have changed, on the CPU."""
    return {
        name: value.detach().cpu().clone()
        for name, value in model.state_dict().items()
        if TRAINED_PARTS & set(name.split("."))
    }


def load_classifier_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a :func:`classifier_state` into a detector of the same config.

    Raises:
        ValueError: it has other parts.
    """
    own = classifier_state(model)
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in state.items()}:
        raise ValueError("the classifier is of another model: it has other tensors")
    copy_into(model, state)


def write_model(out: Path, model: nn.Module, recipe: Recipe, comment: str) -> tuple[Path, Path]:
    """Write ``model_final.pth`` and ``config.yaml``, its child config.

    ``tools/train_net.py --eval-only --config-file config.yaml`` evaluates it, and Detectron2's
    ``DefaultPredictor`` takes the config.

    Args:
        out: folder.
        model: trained, with ordinary classifiers.
        recipe: how it was trained.
        comment: first line of the config.

    Returns:
        The two paths.

    Raises:
        ValueError: loaded from these files it is another model.
    """
    weights, config = Path(out) / WEIGHTS, Path(out) / CONFIG
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    with atomic_path(weights) as part:
        torch.save({"model": state, "__author__": "balms_det"}, part)
    opts = [*recipe.opts, "MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(out)]
    content = child_content(config, recipe.config_file, opts)
    write_atomically(config, as_yaml(content, comment))
    check_written(config, state)
    return weights, config
