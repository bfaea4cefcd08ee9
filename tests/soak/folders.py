"""Whether what a killed run left is part of what the uninterrupted run makes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch

# Written line by line; what matters of them is checked apart or nothing.
JOURNALS = ("log.txt", "metrics.json", "events.out.")
# Has an entry for each time that the run was started.
STARTS = ("run.json",)


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Paths at which two nested states are not identical to the last bit."""
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, dict) and a.keys() == b.keys():
        return [d for key in a for d in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, list | tuple) and len(a) == len(b):
        return [d for i, pair in enumerate(zip(a, b)) for d in differences(*pair, f"{path}.{i}")]
    return [] if a == b else [path]


def faults_in(
    folder: Path, reference: Path, finished: bool, except_for: Collection[Path] = ()
) -> list[str]:
    """What is wrong with a run's folder beside that of the uninterrupted run.

    Every file that has its final name must be the reference's, to the last bit of its content;
    hidden ones and ``*.part`` have none yet. A finished run must have all of them. Files of
    ``except_for`` are not looked at, and of those that note every start no more is asked than that
    they are json.
    """
    found = {path.relative_to(folder) for path in final_files(folder)}
    wanted = {path.relative_to(reference) for path in final_files(reference)}
    faults = [f"{name} is not in the uninterrupted run" for name in found - wanted]
    for name in sorted((found & wanted) - {path.relative_to(folder) for path in except_for}):
        if name.name == "last_checkpoint" and not finished:
            faults += _pointer_faults(folder / name)
            continue
        try:
            same = _content(folder / name, folder), _content(reference / name, reference)
            faults += [f"{name} differs{where}" for where in differences(*same)]
        except (ValueError, RuntimeError, EOFError, OSError) as error:
            faults.append(f"{name} is not whole: {error}")
    if finished:
        faults += [f"{name} is missing" for name in wanted - found]
        faults += _metrics_faults(folder, reference)
    return faults


def final_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        unfinished = path.suffix == ".part" or path.suffix.startswith(".rank")
        if path.is_file() and not hidden and not unfinished and not path.name.startswith(JOURNALS):
            yield path


def _pointer_faults(path: Path) -> list[str]:
    """It moves on with the run, and always names a checkpoint that is there."""
    named = path.read_text()
    return [] if (path.parent / named).is_file() else [f"{path.name} names {named!r}"]


def _content(path: Path, folder: Path) -> Any:
    if path.suffix in (".pth", ".pt"):
        return torch.load(path, weights_only=True)
    content = path.read_bytes().replace(str(folder).encode(), b"")  # configs name their own folder
    if path.suffix == ".json":
        entries = json.loads(content)
        return None if path.name in STARTS else entries
    return content


def _metrics_faults(folder: Path, reference: Path) -> list[str]:
    """What the uninterrupted run recorded must be there once. A kill after an iteration's
    checkpoint and before its record loses that record."""
    mine, its = (_recorded(path / "metrics.json") for path in (folder, reference))
    in_order = [number for number in its if number in mine]
    return [] if mine == in_order else [f"metrics.json records {mine} and not {its}"]


def _recorded(path: Path) -> list[int]:
    if not path.exists():
        return []
    return [json.loads(line)["iteration"] for line in path.read_text().splitlines()]
