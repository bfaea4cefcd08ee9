"""``run.json`` in the folder of a run: what it was made with, for repeating it.

The file holds a list with an entry for each time that the run was started or resumed: command
line, config, versions, git state, datasets (the digests of their files) and class counts.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import detectron2
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

import balms_det
from balms_det.data.class_stats import build_class_stats
from balms_det.engine.weights_files import local_weights
from balms_det.utils.file_cache import file_fingerprint
from balms_det.utils.files import write_atomically
from balms_det.utils.local import local_path

logger = logging.getLogger(__name__)

NAME = "run.json"
_PACKAGES = ("torch", "torchvision", "numpy", "fvcore", "pycocotools", "hotcoco")
_ENVIRONMENT = ("BALMS_DET_TRUST", "CUDA_VISIBLE_DEVICES", "DETECTRON2_DATASETS", "OMP_NUM_THREADS")
_DRIVER = Path("/proc/driver/nvidia/version")


def write_run_record(cfg: CfgNode, **flags: Any) -> Path:
    """Add an entry to ``OUTPUT_DIR/run.json``, which is written whole or not at all.

    A file that cannot be read is kept, under another name, and a new one is begun.

    Args:
        cfg: the run's config.
        flags: what else to note, such as ``resume``.
    """
    path = Path(cfg.OUTPUT_DIR, NAME)
    entries = [*_earlier(path), {**run_entry(cfg), **flags}]
    write_atomically(path, json.dumps(entries, indent=1) + "\n")
    return path


def _earlier(path: Path) -> list[dict]:
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_bytes())
    except ValueError:
        entries = None
    if isinstance(entries, list):
        return entries
    aside = path.with_name(f"{path.name}.unreadable")
    logger.warning("%s is no list of json: it is kept as %s", path, aside)
    os.replace(path, aside)
    return []


def run_entry(cfg: CfgNode) -> dict[str, Any]:
    """What the process and its config are, as json types."""
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "working_directory": os.getcwd(),
        "environment": {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ},
        "processes": comm.get_world_size(),
        "versions": _versions(),
        "cuda": _cuda(),
        "git": {
            "balms_det": _git(Path(balms_det.__file__).parent, balms_det.__file__),
            "working_directory": _git(Path.cwd()),
        },
        "weights": _fingerprint(cfg.MODEL.WEIGHTS, local_weights) if cfg.MODEL.WEIGHTS else None,
        "datasets": {name: _dataset(name) for name in _datasets(cfg)},
        "class_counts": _class_counts(cfg),
        "config": yaml.safe_load(cfg.dump()),
    }


def _versions() -> dict[str, Any]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["balms_det"] = {
        "version": balms_det.__version__,
        "from": str(Path(balms_det.__file__).parent),
    }
    folder = Path(detectron2.__file__).parent
    found["detectron2"] = {
        "version": getattr(detectron2, "__version__", None),
        "from": str(folder),
        "compiled": any(folder.glob("_C*")),  # without its own operators it is torchvision's
    }
    return found


def _cuda() -> dict[str, Any]:
    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return {
        "torch_built_for": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": _DRIVER.read_text().splitlines()[0] if _DRIVER.is_file() else None,
        "devices": [torch.cuda.get_device_name(device) for device in devices],
    }


def _git(folder: Path, tracked: str | None = None) -> dict | None:
    try:
        return git_state(folder, tracked)
    except GitError as error:
        return {"error": f"the git checkout of {folder} cannot be read: {error}"}


def _datasets(cfg: CfgNode) -> list[str]:
    named = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, *cfg.META.DATASETS]
    counts = [cfg.DATASETS.CLASS_COUNTS] if cfg.DATASETS.CLASS_COUNTS else []
    return list(dict.fromkeys([*named, *counts]))


def _dataset(name: str) -> dict[str, Any]:
    if name.endswith(".json"):
        return _fingerprint(name)
    entry = MetadataCatalog.get(name) if name in DatasetCatalog else None
    if entry is None or not entry.get("json_file"):
        return {"error": "it is registered in Python, without a file"}
    return {**_fingerprint(entry.json_file), "images": entry.get("image_root")}


def _fingerprint(path: str, locate: Callable[[str], str] = local_path) -> dict[str, Any]:
    try:
        found = file_fingerprint(locate(path))
        return {**found, "file": path} if "://" in path else found
    except OSError as error:
        return {"file": path, "error": error.strerror or str(error)}


def _class_counts(cfg: CfgNode) -> dict[str, Any] | None:
    if not (cfg.DATASETS.TRAIN or cfg.DATASETS.CLASS_COUNTS):
        return None
    try:
        stats = build_class_stats(cfg)
    except (ValueError, KeyError, OSError) as error:  # evaluation needs none
        return {"error": str(error)}
    return {
        "num_images": stats.num_images,
        "names": list(stats.names) if stats.names else None,
        "image_count": stats.image_count.tolist(),
        "instance_count": stats.instance_count.tolist(),
    }


# It writes nothing (not even a refreshed index) and speaks English, whatever the user's language.
_GIT_ENVIRONMENT = {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
# The monitor is a program that the checkout's config may name; git shall not run it for this.
_OPTIONS = ["-c", "core.fsmonitor=false", "--literal-pathspecs"]
_SECONDS = 60


class GitError(ValueError):
    """git is not installed, or does not want to read a checkout; the message is its own."""


def git_state(folder: str | os.PathLike, tracked: str | os.PathLike | None = None) -> dict | None:
    """What is checked out where a folder lies.

    Args:
        folder: any folder of the checkout.
        tracked: a file that has to be of the checkout, and does not just lie inside it.

    Returns:
        ``root``; ``commit`` (hexadecimal, or None before the first); ``branch`` (None where there
        is none); ``dirty``: whether a file differs from the commit in its content, or is gone.
        Files that git does not track do not count. None outside of a checkout.

    Raises:
        GitError: git cannot be asked, or refuses.
    """
    folder = Path(os.path.abspath(folder))
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    if tracked is not None and not _ask_git(folder, "ls-files", "--", os.path.abspath(tracked)):
        return None
    status = _ask_git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no")
    lines = status.splitlines()
    told = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    commit, branch = told["branch.oid"], told["branch.head"]
    return {
        "root": _ask_git(folder, "rev-parse", "--show-toplevel"),
        "commit": None if commit == "(initial)" else commit,
        "branch": None if branch == "(detached)" else branch,
        "dirty": any(not line.startswith("# ") for line in lines),
    }


def _ask_git(folder: Path, *words: str) -> str:
    command = ["git", *_OPTIONS, "-C", str(folder), *words]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **_GIT_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
        )
    except FileNotFoundError as error:
        raise GitError("git is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise GitError(f"git did not answer in {_SECONDS} s") from error
    if done.returncode:
        raise GitError(done.stderr.strip() or f"git ended with {done.returncode}")
    return done.stdout.rstrip("\n")


def write_results(cfg, results: dict) -> Path:
    """Write evaluation results to ``OUTPUT_DIR/results.json``, whole or not at all.

    Args:
        cfg: reads ``OUTPUT_DIR``.
        results: ``{task: {metric: value}}``, or one such mapping per test dataset. An undefined
            value (a group without categories: NaN, or negative in LVIS) is written as null.

    Returns:
        The file's path.
    """
    path = Path(cfg.OUTPUT_DIR, "results.json")
    write_atomically(path, json.dumps(_plain(results), indent=1))
    return path


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    number = float(value)
    return None if math.isnan(number) or number < 0 else number
