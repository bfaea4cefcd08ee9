"""A model that was written, built again from its files and compared with the one that was measured:
an AP is announced of what the files hold, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from balms_det.engine.checkpoint import load_trained_weights
from balms_det.engine.config import load_cfg
from balms_det.engine.trainer import LongTailTrainer


def load_written(config: str | Path) -> nn.Module:
    """The model of a config with its weights, as ``tools/train_net.py --eval-only`` builds it."""
    cfg = load_cfg(str(config))
    model = LongTailTrainer.build_model(cfg)
    load_trained_weights(cfg, model)
    return model


def check_written(config: str | Path, measured: Mapping[str, Tensor]) -> None:
    """Compare what a written config and its checkpoint give with the measured model, bit by bit.

    Args:
        config: path of the config, which names the checkpoint.
        measured: state dict of the measured model; buffers may be left out.

    Raises:
        ValueError: they differ.
    """
    model = load_written(config)
    loaded = model.state_dict()
    wrong = [name for name, value in measured.items() if not _equal(loaded.get(name), value, name)]
    wrong += [name for name, _ in model.named_parameters() if name not in measured]
    if wrong:
        raise ValueError(
            f"{config}: the model loaded from its files is not the one that was measured: "
            f"{len(wrong)} tensors differ, among them {wrong[0]!r}. Its AP is another one; do not "
            "use these files, and report this"
        )


def _equal(loaded: Tensor | None, value: Tensor, name: str) -> bool:
    if loaded is None:  # frozen normalisation counts no batches
        return name.endswith(".num_batches_tracked")
    same = loaded.dtype == value.dtype and loaded.shape == value.shape
    return same and _bits(loaded).equal(_bits(value))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
