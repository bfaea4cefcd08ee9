"""The dataset's folder: whether it is complete, clearing it, and writing the last file.

`manifest.json` is written after everything else, so a folder that has one is complete. A hidden
marker tells a folder whose generation was cut short from one that belongs to somebody else.
"""

import json
import logging
import re
from pathlib import Path

from balms_det.data.icons.writer import sha256
from balms_det.files import write_atomically

SPLITS = ("train", "val")
_MARKER = ".icons_lt_unfinished"
_MANIFEST = "manifest.json"
_OWN_FILE = re.compile(r"\d{6}\.jpg|\.tmp-.*")
logger = logging.getLogger(__name__)


def json_path(root: Path, split: str) -> Path:
    """The LVIS json of a split."""
    return root / f"icons_lt_{split}.json"


def _read_manifest(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}). Delete it, or pass force=True (--force)."
        ) from error


def _is_intact(root: Path, manifest: dict) -> bool:
    """Whether the jsons are the manifest's and no picture is missing."""
    for split in SPLITS:
        path = json_path(root, split)
        if not path.is_file() or sha256(path) != manifest[split]["sha256"]:
            return False
        if len(list((root / split).glob("*.jpg"))) != manifest[split]["images"]:
            return False
    return True


def find_complete(root: Path, parameters: dict) -> dict | None:
    """The manifest of a complete dataset made with these parameters; None if one is to be made.

    Raises:
        FileExistsError: the folder holds a dataset of other parameters, or somebody's files.
        ValueError: the folder's manifest is not JSON.
    """
    path = root / _MANIFEST
    if path.is_file():
        manifest = _read_manifest(path)
        old = manifest.get("parameters", {})
        changed = sorted(k for k in {*old, *parameters} if old.get(k) != parameters.get(k))
        if changed:
            raise FileExistsError(
                f"{root} holds icons_lt made with other parameters ({', '.join(changed)} differ). "
                "Choose another folder, or pass force=True (--force) to replace it."
            )
        if _is_intact(root, manifest):
            return manifest
        logger.warning("Files of %s are missing or changed; generating them again", root)
    elif root.is_dir() and any(root.iterdir()) and not (root / _MARKER).exists():
        raise FileExistsError(
            f"{root} is not empty and holds no icons_lt. Choose another folder, or pass "
            "force=True (--force) to write into it."
        )
    return None


def clear(root: Path) -> None:
    """Mark the folder as unfinished and remove what an earlier run left, the manifest first."""
    root.mkdir(parents=True, exist_ok=True)
    (root / _MARKER).touch()
    (root / _MANIFEST).unlink(missing_ok=True)
    for split in SPLITS:
        json_path(root, split).unlink(missing_ok=True)
        (root / split).mkdir(exist_ok=True)
        for file in (root / split).iterdir():
            if _OWN_FILE.fullmatch(file.name):
                file.unlink()


def complete(root: Path, manifest: dict) -> None:
    """Write the manifest, which declares the dataset complete."""
    write_atomically(root / _MANIFEST, json.dumps(manifest, indent=1) + "\n")
    (root / _MARKER).unlink(missing_ok=True)
