"""Checkpoints: missing, broken, or of something else."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from balms_det.engine import LongTailTrainer, load_cfg
from balms_det.engine.checkpoint import load_trained_weights, load_weights
from balms_det.engine.weights_files import read_checkpoint, write_weights
from balms_det.utils.trust import UntrustedFileError
from tests.bad_input.case import Case
from tests.bad_input.documents import write

STAGE1 = str(Path(__file__).parents[2] / "configs/quickstart/stage1.yaml")
NO_DATA = ("DATASETS.FILES", "[]", "DATASETS.TRAIN", "()", "DATASETS.TEST", "()")


class Program:
    """What a pickle must not make."""


@functools.cache
def model(num_classes: int, width: int = 64) -> torch.nn.Module:
    return LongTailTrainer.build_model(_cfg(num_classes, "MODEL.ROI_BOX_HEAD.FC_DIM", str(width)))


def _cfg(num_classes: int, *words: str):
    classes = ("MODEL.ROI_HEADS.NUM_CLASSES", str(num_classes))
    return load_cfg(STAGE1, [*NO_DATA, *classes, *words])


def weights(content: Any, name: str = "w.pth", load: Callable = load_trained_weights) -> Callable:
    """Load a file with this content (bytes, or what torch saves) into a model of 3 classes."""

    def run(folder: Path) -> Any:
        path = folder / name
        write(path, content) if isinstance(content, bytes) else torch.save(content, path)
        return load(_cfg(3, "MODEL.WEIGHTS", str(path)), model(3))

    return run


def of_model(num_classes: int, width: int = 64) -> Callable[[Path], Any]:
    return lambda folder: weights({"model": model(num_classes, width).state_dict()})(folder)


def cut_off(folder: Path) -> Any:
    torch.save({"model": model(3).state_dict()}, folder / "whole.pth")
    return weights((folder / "whole.pth").read_bytes()[:-5000])(folder)


def named(path: str, *words: str, load: Callable = load_trained_weights) -> Callable:
    return lambda folder: load(
        _cfg(3, "MODEL.WEIGHTS", path and str(folder / path), *words), model(3)
    )


def _case(name: str, run: Callable, *words: str, error: type = ValueError) -> Case:
    return Case(name, run, error, words)


DECOUPLED = ("MODEL.DECOUPLED.ENABLED", "True")
CASES = [
    _case("none named", named(""), "MODEL.WEIGHTS is empty", "name the checkpoint"),
    _case("missing", named("no.pth"), "MODEL.WEIGHTS", "no.pth", error=FileNotFoundError),
    _case("a folder", named("."), "MODEL.WEIGHTS: there is no file", error=FileNotFoundError),
    _case("empty", weights(b""), "w.pth is no checkpoint", "not all of it"),
    _case("binary", weights(bytes(range(256))), "w.pth is no checkpoint"),
    _case("a text", weights(b"hello"), "w.pth is no checkpoint"),
    _case("cut off", cut_off, "w.pth is no checkpoint", "not all of it"),
    _case(
        "a program",
        weights(Program()),
        "w.pth",
        "any program",
        "BALMS_DET_TRUST",
        error=UntrustedFileError,
    ),
    _case("a list", weights([1, 2]), "w.pth holds a list", "dict of weights"),
    _case("model a number", weights({"model": 5}), "w.pth", "no dict of names"),
    _case("model of numbered weights", weights({"model": {1: torch.zeros(1)}}), "w.pth", "names"),
    _case("model of texts", weights({"model": {"roi_heads.a": "b"}}), "roi_heads.a"),
    _case("pkl broken", weights(b"hello", "w.pkl"), "w.pkl is no checkpoint"),
    _case("pkl of a list", weights(pickle.dumps([1]), "w.pkl"), "w.pkl holds a list"),
    _case("safetensors broken", weights(b"hello", "w.safetensors"), "w.safetensors is no"),
    _case("pyth of something else", weights({"a": torch.zeros(1)}, "w.pyth"), "model_state"),
    _case("without weights", weights({"model": {}}), "MODEL.WEIGHTS does not hold", "random"),
    _case(
        "more classes",
        of_model(5),
        "does not hold",
        "shape (6, 64) there, and (4, 64) here",
        "these classes",
    ),
    _case("fewer classes", of_model(1), "shape (2, 64) there, and (4, 64) here"),
    _case("another architecture", of_model(3, width=32), "does not hold", "this architecture"),
    _case(
        "stage 2 from nothing",
        named("", *DECOUPLED, load=load_weights),
        "MODEL.DECOUPLED.ENABLED",
        "stage 1 checkpoint",
    ),
    _case(
        "stage 2 from something else",
        lambda folder: named("w.pth", *DECOUPLED, load=load_weights)(_other(folder)),
        "stage 2 freezes",
        "stage 1 checkpoint",
    ),
    _case(
        "freezing all but a part that is not there",
        lambda folder: LongTailTrainer.build_model(
            _cfg(3, *DECOUPLED, "MODEL.DECOUPLED.TRAIN_ONLY", "['cls_scores']")
        ),
        "MODEL.DECOUPLED.TRAIN_ONLY",
        "'cls_scores'",
        "Names look like",
    ),
    _case(
        "written in another format",
        lambda folder: write_weights(folder / "w.bin", {"model": {}}),
        "w.bin",
        ".safetensors",
    ),
    _case(
        "read, missing",
        lambda folder: read_checkpoint(folder / "no.pth"),
        "no.pth",
        error=FileNotFoundError,
    ),
]


def _other(folder: Path) -> Path:
    torch.save({"model": {"other.weight": torch.zeros(2)}}, folder / "w.pth")
    return folder
