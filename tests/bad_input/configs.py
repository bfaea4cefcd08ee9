"""Config files, KEY VALUE pairs, and values that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from balms_det.engine import load_cfg
from balms_det.utils.trust import UntrustedFileError
from tests.bad_input.case import Case
from tests.bad_input.documents import write

LOSS = "MODEL.ROI_BOX_HEAD.CLS_LOSS"


def file(content: str | bytes, **others: str) -> Callable[[Path], Any]:
    """Load ``c.yaml`` with this content; the others are files beside it, without their suffix."""

    def run(folder: Path) -> Any:
        for name, text in others.items():
            write(folder / f"{name}.yaml", text)
        return load_cfg(write(folder / "c.yaml", content))

    return run


def pairs(*words: str) -> Callable[[Path], Any]:
    return lambda folder: load_cfg("", list(words))


def bad(name: str, run: Callable, *words: str, error: type = ValueError) -> Case:
    return Case(name, run, error, words)


FILE = [
    bad(
        "missing",
        lambda f: load_cfg(f"{f}/no.yaml"),
        "no.yaml",
        "does not exist",
        error=FileNotFoundError,
    ),
    bad("a folder", lambda f: load_cfg(str(f)), "is a folder", error=FileNotFoundError),
    bad("empty", file(""), "c.yaml", "keys and values", "is empty"),
    bad("binary", file(bytes(range(256))), "c.yaml is no YAML file"),
    bad("zeros", file(b"\0" * 9), "c.yaml is no YAML file"),
    bad("UTF-16", file("SEED: 1".encode("utf-16")), "c.yaml is no YAML file"),
    bad("syntax", file("MODEL: [1, 2\nX: }"), "c.yaml", "line 2"),
    bad("tabs", file("MODEL:\n\tDEVICE: cpu"), "c.yaml", "line 2", "'\\t'"),
    bad("too deep", file("[" * 5000), "c.yaml is no YAML file"),
    bad("a list", file("- 1"), "c.yaml", "keys and values", "[1]"),
    bad("a text", file("hello"), "c.yaml", "keys and values", "'hello'"),
    bad("a number as key", file("5: 3"), "c.yaml", "key 5", "text"),
    bad("a node without keys", file("MODEL:\n"), "c.yaml: MODEL must hold keys"),
    bad("a node that is a number", file("SOLVER: 5"), "c.yaml: SOLVER must hold keys"),
    bad(
        "an unknown key",
        file("MODEL: {DEVISE: cpu}"),
        "c.yaml",
        "MODEL.DEVISE",
        "misspelt",
        error=KeyError,
    ),
    bad("a wrong type", file("SOLVER: {MAX_ITER: many}"), "c.yaml: SOLVER.MAX_ITER", "int"),
    bad(
        "a list for arguments",
        file("MODEL: {ROI_BOX_HEAD: {CLS_LOSS: {ARGS: [1]}}}"),
        f"c.yaml: {LOSS}.ARGS",
        "keys and values",
    ),
    bad("a null", file("SOLVER: {MAX_ITER: null}"), "SOLVER.MAX_ITER is null", "take the line"),
    bad("another version", file("VERSION: 99"), "c.yaml", "v99"),
    bad(
        "a tag",
        file("OUTPUT_DIR: !!python/name:os.system"),
        "c.yaml, line 1",
        "tag",
        error=UntrustedFileError,
    ),
    bad(
        "base missing",
        file("_BASE_: b.yaml"),
        "b.yaml",
        "_BASE_ of",
        "c.yaml",
        error=FileNotFoundError,
    ),
    bad("base a number", file("_BASE_: 5"), "c.yaml: _BASE_ must be a file name", "5"),
    bad("base is itself", file("_BASE_: c.yaml"), "c.yaml", "is its own _BASE_"),
    bad("bases in a circle", file("_BASE_: b.yaml", b="_BASE_: c.yaml"), "own _BASE_", "b.yaml"),
    bad("base broken", file("_BASE_: b.yaml", b="[1"), "b.yaml is no YAML file"),
    bad("a data row of texts", file("DATASETS: {FILES: [abc]}"), "DATASETS.FILES", "'abc'"),
]
PAIRS = [
    bad("one word", pairs("SEED"), "KEY VALUE pairs", "'SEED'"),
    bad("unknown key", pairs("MODEL.NOPE", "1"), "command line", "'MODEL.NOPE'", error=KeyError),
    bad("unknown key below a value", pairs("SEED.X", "1"), "'SEED.X'", error=KeyError),
    bad("arguments of nothing", pairs("NOPE.ARGS.X", "1"), "'NOPE.ARGS.X'", error=KeyError),
    bad(
        "an option at the end",
        pairs("--resume", "1"),
        "'--resume'",
        "before all KEY VALUE",
        error=KeyError,
    ),
    bad("text for a number", pairs("SEED", "x"), "command line: SEED", "int", "str"),
    bad("value for a node", pairs("MODEL", "1"), "command line: MODEL", "keys and values"),
    bad("text for a list", pairs("DATASETS.TRAIN", "a"), "DATASETS.TRAIN", "tuple"),
]
VALUES = [
    bad(f"{key} {value}", pairs(key, value), f"{key} is ", *words)
    for key, value, *words in (
        ("MODEL.DEVICE", "gpu", "'gpu'", "cpu, cuda"),
        ("SEED", str(2**40), "2**32"),
        ("SOLVER.MAX_ITER", "0", "1 or more"),
        ("SOLVER.CHECKPOINT_PERIOD", "0", "1 or more"),
        ("SOLVER.BASE_LR", "-0.1", "not negative"),
        ("SOLVER.BASE_LR", "1e400", "inf", "finite"),
        ("SOLVER.STEPS", "('a',)", "iterations"),
        ("DATALOADER.NUM_WORKERS", "-1", "0 or more"),
        ("DATALOADER.REPEAT_THRESHOLD", "-1.0", "not negative"),
        ("DATALOADER.REPEAT_THRESHOLD", "1e400", "finite"),
        ("INPUT.FORMAT", "CMYK", "BGR, RGB"),
        ("INPUT.MASK_FORMAT", "rle", "polygon or bitmask"),
        ("INPUT.MIN_SIZE_TRAIN", "()", "sizes in pixels"),
        ("INPUT.MIN_SIZE_TRAIN", "('a',)", "sizes in pixels"),
        ("INPUT.COPY_PASTE.SCALE", "[1.0]", "two numbers"),
        ("INPUT.COPY_PASTE.MAX_INSTANCES", "0", "1 or more"),
        ("META.BETAS", "(2.0, 0.5)", "below 1"),
        ("META.LR", "-1.0", "not negative"),
        ("META.SAMPLER_PERIOD", "0", "1 or more"),
        ("MODEL.DECOUPLED.TRAIN_ONLY", "[]", "parameter names"),
        ("TEST.FREQUENCY_LIMITS", "[5]", "two numbers"),
        ("TEST.FREQUENCY_LIMITS", "['a', 'b']", "two numbers"),
        ("TEST.FREQUENCY_LIMITS", "[100, 10]", "comes first"),
        ("OUTPUT_DIR", __file__, "a folder"),
    )
]
CASES = FILE + PAIRS + VALUES
