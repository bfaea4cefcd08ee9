"""Reading a YAML config, and the files of its ``_BASE_``, without building Python objects.

What a value stands for (a loss, a sampler, a dataset) is checked by whatever builds it.

"""

from __future__ import annotations

import logging
import math
import numbers
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.utils import comm
from fvcore.common.config import BASE_KEY

from balms_det.annotations.class_identity import ClassList, class_places
from balms_det.annotations.summary import annotation_summary
from balms_det.config import add_balms_config
from balms_det.data.class_stats import give_class_stats
from balms_det.data.datasets import check_rows, settle_num_classes, setup_datasets
from balms_det.engine.identity import CHECKPOINTS, read_identity
from balms_det.modeling.authors_presets import translate_authors_keys
from balms_det.utils.local import found_path, is_address, local_path
from balms_det.utils.trust import insist

_MISMATCH = re.compile(
    r"Type mismatch \(<class '(?:\w+\.)*(\w+)'> vs\. <class '(?:\w+\.)*(\w+)'>\)"
    r".* for config key: (\S+)",
    re.DOTALL,
)


def merge_config_file(cfg: CfgNode, path: str) -> None:
    """``cfg.merge_from_file(path)`` of Detectron2, which by itself does what a YAML tag says.

    Raises:
        FileNotFoundError: it, or a file of its ``_BASE_``, is not there.
        UntrustedFileError: it, or a file of its ``_BASE_``, has a tag such as
            ``!!python/object/apply``.
        KeyError: a key that the config does not have.
        ValueError: it is no YAML of keys and values, or a value is of the wrong type.
    """
    try:
        _check_file(cfg, path, ())
        allow_unsafe = False
    except yaml.constructor.ConstructorError as error:
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else path
        insist("yaml", f"{where}: {error.problem}, so this is no config of plain values")
        allow_unsafe = True
    with tempfile.TemporaryDirectory(prefix="balms_det-configs-") as folder, errors_name(path):
        merged = path if allow_unsafe else _without_addresses(path, Path(folder))
        cfg.merge_from_file(merged, allow_unsafe=allow_unsafe)


def _without_addresses(path: str, folder: Path) -> str:
    """A config whose bases are all files of this machine, as Detectron2 needs it: the same one or,
    where an address is among them, a copy in ``folder`` that names copies."""
    content = _read(path)
    bases = list(_bases(path, content.get(BASE_KEY, [])))
    local = [_without_addresses(base, folder) for base in bases]
    if local == bases and not is_address(path):
        return path
    if bases:
        content[BASE_KEY] = [os.path.abspath(base) for base in local]
    copy = folder / f"{len(list(folder.iterdir()))}.yaml"
    copy.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(copy)


def _check_file(cfg: CfgNode, path: str, children: tuple[str, ...]) -> None:
    """Read a config and its bases, which name each other, without merging them."""
    found = local_path(path)
    needed_by = f" (the {BASE_KEY} of {children[-1]})" if children else ""
    if not os.path.isfile(found):
        what = "is a folder, not a file" if os.path.isdir(found) else "does not exist"
        raise FileNotFoundError(f"Config file '{path}'{needed_by} {what}.")
    if path in children:
        raise ValueError(f"Config file '{path}' is its own {BASE_KEY}, by way of {children[-1]}.")
    content = _read(path)
    for key, value in content.items():
        if not isinstance(key, str):
            raise ValueError(f"{path}: the key {key!r} must be a text.")
        if isinstance(cfg.get(key), CfgNode) and not isinstance(value, dict):
            raise ValueError(f"{path}: {key} must hold keys and values, got {value!r:.80}.")
    for base in _bases(path, content.get(BASE_KEY, [])):
        _check_file(cfg, base, (*children, path))


def _read(path: str) -> dict:
    try:
        with open(local_path(path), encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except yaml.constructor.ConstructorError:
        raise
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML file: {str(error) or 'it is too deep'}") from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds {content!r:.80}"
        raise ValueError(f"{path} must hold keys and values, as in `SEED: 1`, and {found}.")
    return content


def _bases(path: str, given: object) -> Iterator[str]:
    """Paths of the files that ``_BASE_`` names, as Detectron2 takes them."""
    bases = given if isinstance(given, list) else [given]
    for base in bases:
        if not isinstance(base, str):
            raise ValueError(f"{path}: {BASE_KEY} must be a file name, or a list, got {given!r}.")
        base = os.path.expanduser(base)
        absolute = base.startswith("/") or is_address(base)
        # Not dirname, which takes a slash off "store://".
        folder = path[: path.rfind("/") + 1] if is_address(path) else os.path.dirname(path)
        yield base if absolute else os.path.join(folder, base)


@contextmanager
def errors_name(source: str) -> Iterator[None]:
    """Errors of yacs, shorter and with the file, or the like, that they come from.

    Raises:
        KeyError: a key that the config does not have.
        ValueError: a value of the wrong type, or a file for another version of Detectron2.
    """
    try:
        yield
    except KeyError as error:
        raise KeyError(
            f"{source}: {error.args[0]}. Is it misspelt, or of another project's config?"
        ) from error
    except (ValueError, AssertionError) as error:
        wrong = _MISMATCH.search(str(error))
        text = (
            f"{wrong[3]} must be {_kind(wrong[1])}, got {_kind(wrong[2])}" if wrong else str(error)
        )
        raise ValueError(f"{source}: {text.removesuffix('.')}.") from error


def _kind(name: str) -> str:
    return "keys and values" if name == "CfgNode" else f"of type {name}"


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


def child_content(path: Path, base: str, opts: Sequence[str]) -> dict[str, Any]:
    """The content of a config that is to be written to ``path``.

    Args:
        path: of the child.
        base: path of its base; empty for none.
        opts: ``KEY VALUE`` pairs, as on the command line.
    """
    content: dict[str, Any] = {}
    if base:
        content["_BASE_"] = base if is_address(base) else os.path.relpath(base, Path(path).parent)
    for key, value in zip(opts[::2], opts[1::2]):
        set_key(content, key, yaml_value(value))
    return content


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Set ``A.B.C`` in nested dicts."""
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
    content[last] = value


def yaml_value(text: str) -> Any:
    """What a word of the command line means in a config."""
    value = CfgNode._decode_cfg_value(text)
    # YAML has no tuples; a config accepts a list in place of one.
    return list(value) if isinstance(value, tuple) else value


def as_yaml(content: dict[str, Any], comment: str) -> str:
    """The text of a config, under a line of comment."""
    return f"# {comment}\n{yaml.safe_dump(content, sort_keys=False)}"


def load_cfg(config_file: str, opts: list[str] = ()) -> CfgNode:
    """:func:`setup_cfg` without logging, seeding or an output folder.

    Where no training data are named, classes and counts are those that ``MODEL.WEIGHTS``, a
    checkpoint of ours, was trained with.
    """
    cfg = _merged(config_file, opts)
    cfg = setup_datasets(cfg, classes_of_weights(cfg))
    cfg.freeze()
    return cfg


def load_prediction_cfg(config_file: str, opts: list[str] = ()) -> CfgNode:
    """The config of a model that is to predict, without any data.

    A checkpoint of ours brings its classes and counts, so that ``DATASETS`` is left aside; it is
    only asked whether training annotations that are there have the same classes. For others it
    is :func:`load_cfg`.

    Raises:
        ClassListError: the annotations of ``DATASETS.TRAIN`` have other classes.
        ValueError: ``NUM_CLASSES`` is another; and see :func:`load_cfg`.
    """
    cfg = _merged(config_file, opts)
    identity = read_identity(cfg.MODEL.WEIGHTS)
    if identity is None or identity.class_stats() is None:
        return load_cfg(config_file, opts)
    classes = identity.classes(cfg.MODEL.WEIGHTS)
    for name, json_file in _files_there(cfg):
        summary = annotation_summary(json_file)
        class_places(classes, ClassList.of(f"{json_file} of '{name}'", summary.names))
    cfg.DATASETS.FILES = []
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = cfg.META.DATASETS = ()
    cfg.DATASETS.CLASS_COUNTS = ""
    classes_of_weights(cfg)
    cfg.freeze()
    return cfg


def _files_there(cfg: CfgNode) -> Iterator[tuple[str, str]]:
    """Training datasets of ``DATASETS.FILES`` whose annotation files are there."""
    check_rows(cfg.DATASETS.FILES)
    for name, json_file, _ in cfg.DATASETS.FILES:
        if name in cfg.DATASETS.TRAIN and found_path(json_file):
            yield name, json_file


def classes_of_weights(cfg: CfgNode) -> ClassList | None:
    """The classes of ``MODEL.WEIGHTS``, in its order; None where it is none of ours.

    Where the config names no training data, ``CLASS_COUNTS`` becomes the checkpoint, and
    ``NUM_CLASSES`` is filled in.

    Raises:
        ValueError: ``CLASS_COUNTS`` names a checkpoint without counts; ``NUM_CLASSES`` is another.
    """
    node, weights = cfg.DATASETS, cfg.MODEL.WEIGHTS
    identity = read_identity(weights)
    has_counts = identity is not None and identity.class_stats() is not None
    if has_counts and not node.TRAIN and not node.CLASS_COUNTS:
        node.CLASS_COUNTS = weights
    if node.CLASS_COUNTS.endswith(CHECKPOINTS):
        counted = read_identity(node.CLASS_COUNTS)
        stats = None if counted is None else counted.class_stats()
        if stats is None:
            raise ValueError(
                f"DATASETS.CLASS_COUNTS: {node.CLASS_COUNTS} is not there, or no checkpoint of "
                "balms_det that holds class counts."
            )
        give_class_stats(node.CLASS_COUNTS, stats)
    if identity is None:
        return None
    if not node.TRAIN:
        settle_num_classes(cfg, identity.num_classes, weights)
    return identity.classes(weights)


def _merged(config_file: str, opts: list[str]) -> CfgNode:
    """Defaults, YAML and command line, checked; datasets are not looked at."""
    cfg = get_cfg()
    add_balms_config(cfg)
    if config_file:
        merge_config_file(cfg, config_file)
    merge_opts(cfg, list(opts))
    check_values(cfg)
    translate_authors_keys(cfg)
    _choose_device(cfg)
    return cfg


def merge_opts(cfg: CfgNode, opts: list[str]) -> None:
    """Merge ``KEY VALUE`` pairs; unlike yacs alone, new keys of a loss's ``ARGS`` are allowed.

    Raises:
        KeyError: another key that the config does not have.
        ValueError: an odd number of words, or a value of the wrong type.
    """
    if len(opts) % 2:
        raise ValueError(f"command-line options come as KEY VALUE pairs, got {' '.join(opts)!r}")
    for key, value in zip(opts[::2], opts[1::2]):
        node, _, name = key.rpartition(".")
        parent = _node(cfg, node)
        if isinstance(parent, CfgNode) and node.endswith(".ARGS"):
            parent.setdefault(name, CfgNode._decode_cfg_value(value))
        if not isinstance(parent, CfgNode) or name not in parent:
            hint = "; words with -- go before all KEY VALUE pairs" if key.startswith("-") else ""
            raise KeyError(f"command line: the config has no key {key!r}{hint}")
    with errors_name("command line"):
        cfg.merge_from_list(opts)


def _node(cfg: CfgNode, name: str) -> object:
    """What the config has under a dotted name; None for nothing."""
    for part in name.split(".") if name else ():
        cfg = cfg.get(part) if isinstance(cfg, CfgNode) else None
    return cfg


def _choose_device(cfg: CfgNode) -> None:
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}; it must be cpu, cuda or cuda:N."
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        logging.getLogger("balms_det").warning("No CUDA device: running on the CPU.")
        cfg.MODEL.DEVICE = "cpu"
    elif device.type == "cuda" and comm.get_local_size() > torch.cuda.device_count():
        raise ValueError(
            f"{comm.get_local_size()} processes were started on a machine with "
            f"{torch.cuda.device_count()} GPU(s), and each needs one of its own. Start fewer, or "
            "set MODEL.DEVICE to cpu."
        )
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        raise ValueError(
            "SOLVER.AMP.ENABLED needs a CUDA device: Detectron2's AMP trainer does not run on the "
            "CPU. Switch it off with `SOLVER.AMP.ENABLED False`."
        )
