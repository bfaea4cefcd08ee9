"""LVIS v1 json of the scenes."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from balms_det.data.class_stats import COMMON_MAX, RARE_MAX
from balms_det.data.icons.catalog import IconClass


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
