"""The dataset's folder: whether it is complete, clearing it, and writing the last file.

`manifest.json` is written after everything else, so a folder that has one is complete. A hidden
marker tells a folder whose generation was cut short from one that belongs to somebody else.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from balms_det.data.class_stats import COMMON_MAX, RARE_MAX
from balms_det.icons.catalog import IconClass
from balms_det.utils.files import write_atomically

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


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def frequency(image_count: int) -> str:
    """LVIS's letter for a class: rare, common or frequent."""
    return "r" if image_count <= RARE_MAX else "c" if image_count <= COMMON_MAX else "f"


def categories(classes: list[IconClass], train: Iterable[dict]) -> list[dict]:
    """LVIS categories, their counts taken from the annotations of the training records."""
    images = np.zeros(len(classes), int)
    instances = np.zeros(len(classes), int)
    for record in train:
        ids = [ann["category_id"] - 1 for ann in record["annotations"]]
        np.add.at(instances, ids, 1)
        images[list(set(ids))] += 1
    return [
        {
            "id": i + 1,
            "name": icon.name,
            "synset": f"{icon.name}.n.01",
            "synonyms": [icon.name],
            "def": f"icon of a {icon.name.replace('_', ' ')} (look-alikes: {icon.family})",
            "image_count": int(images[i]),
            "instance_count": int(instances[i]),
            "frequency": frequency(images[i]),
        }
        for i, icon in enumerate(classes)
    ]


def lvis_json(records: list[dict], cats: list[dict], description: str) -> bytes:
    """One split as the bytes of an LVIS v1 json; annotation ids count from 1."""
    annotations = [ann for record in records for ann in record["annotations"]]
    annotations = [{"id": i, **ann} for i, ann in enumerate(annotations, 1)]
    content = {
        "info": {
            "description": description,
            "version": "1.0",
            "year": 2025,
            "contributor": "balms_det",
            "url": "",
            "date_created": "2025-01-01",
        },
        "licenses": [
            {
                "id": 1,
                "name": "Apache License 2.0 (icon artwork: Pictogrammers Material Design Icons)",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            }
        ],
        "categories": cats,
        "images": [record["image"] for record in records],
        "annotations": annotations,
    }
    return json.dumps(content, separators=(",", ":")).encode()
