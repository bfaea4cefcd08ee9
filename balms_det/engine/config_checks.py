"""Values of a config that would otherwise fail late, or in a place that does not name their key.

What a value stands for (a loss, a sampler, a dataset) is checked by whatever builds it.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode, get_cfg

from balms_det.config import add_balms_config


def _whole(low: int, high: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, numbers.Integral) and low <= value <= high


def _number(low: float, high: float = math.inf) -> Callable[[Any], bool]:
    """Finite ones; below ``high``."""
    return lambda value: isinstance(value, numbers.Real) and low <= value < high


def _several(of: Callable[[Any], bool], least: int, most: float = math.inf) -> Callable:
    return lambda value: (
        isinstance(value, (list, tuple)) and least <= len(value) <= most and all(map(of, value))
    )


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: value in values


# Key, test of its value, and what it must be.
RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("SEED", _whole(-(2**63), 2**32 - 1), "a whole number below 2**32, or negative for none"),
    ("OUTPUT_DIR", lambda path: path and not os.path.isfile(path), "a folder"),
    ("DATALOADER.NUM_WORKERS", _whole(0), "0 or more"),
    ("DATALOADER.REPEAT_THRESHOLD", _number(0), "a finite number that is not negative"),
    ("INPUT.FORMAT", _one_of("BGR", "RGB", "L", "YUV-BT.601"), "BGR, RGB, L or YUV-BT.601"),
    ("INPUT.MASK_FORMAT", _one_of("polygon", "bitmask"), "polygon or bitmask"),
    ("INPUT.MIN_SIZE_TRAIN", _several(_whole(1), 1), "a list of sizes in pixels"),
    ("INPUT.MIN_SIZE_TEST", _whole(0), "a size in pixels, or 0 for the image's own"),
    ("INPUT.COPY_PASTE.MAX_INSTANCES", _whole(1), "1 or more"),
    ("INPUT.COPY_PASTE.SCALE", _several(_number(0), 2, 2), "two numbers"),
    ("SOLVER.BASE_LR", _number(0), "a finite number that is not negative"),
    ("SOLVER.CHECKPOINT_PERIOD", _whole(1), "1 or more"),
    ("SOLVER.MAX_ITER", _whole(1), "1 or more"),
    ("SOLVER.STEPS", _several(_whole(0), 0), "a list of iterations"),
    ("META.BETAS", _several(_number(0, 1), 2, 2), "two numbers from 0 to below 1"),
    ("META.LR", _number(0), "a finite number that is not negative"),
    ("META.SAMPLER_PERIOD", _whole(1), "1 or more"),
    ("MODEL.DECOUPLED.TRAIN_ONLY", _several(bool, 1), "a list of parts of parameter names"),
    ("TEST.EVAL_PERIOD", _whole(0), "0 or more"),
    ("TEST.FREQUENCY_LIMITS", _several(_whole(0), 2, 2), "two numbers of training images"),
)


def check_values(cfg: CfgNode) -> None:
    """Raise ValueError, which names the key, for a value that cannot work."""
    defaults = get_cfg()
    add_balms_config(defaults)
    _check_nothing_is_null(cfg, defaults, "")
    for key, fits, wanted in RULES:
        value = _value(cfg, key)
        if not fits(value):
            raise ValueError(f"{key} is {value!r}; it must be {wanted}.")
    rare, common = cfg.TEST.FREQUENCY_LIMITS
    if rare > common:
        raise ValueError(
            f"TEST.FREQUENCY_LIMITS is [{rare}, {common}]; the limit of rare comes first."
        )


def _value(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _check_nothing_is_null(cfg: CfgNode, defaults: CfgNode, prefix: str) -> None:
    for key, default in defaults.items():
        if default is not None and cfg.get(key) is None:
            raise ValueError(f"{prefix}{key} is null; give it a value, or take the line out.")
        if isinstance(default, CfgNode):
            _check_nothing_is_null(cfg[key], default, f"{prefix}{key}.")
