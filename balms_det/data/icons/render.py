"""From an image's plan to its JPEG file and its LVIS record; runs in worker processes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from balms_det.data.icons import background, plan
from balms_det.data.icons.folder import SPLITS
from balms_det.data.icons.polygons import mask_to_polygons
from balms_det.data.icons.scene import Scene, compose
from balms_det.data.icons.style import SceneStyle
from balms_det.files import write_atomically


@dataclass(frozen=True)
class SplitSpec:
    """What every image of a split has in common."""

    root: Path
    split: str
    looks: list[tuple[str, float]]  # glyph and typical hue of each class
    family: np.ndarray  # (K,) family index of each class
    image_size: int
    seed: int
    style: SceneStyle
    first_id: int


def _annotation(class_index: int, image_id: int, mask: np.ndarray) -> dict:
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(xs[0]), int(ys[0])
    return {
        "image_id": image_id,
        "category_id": class_index + 1,
        "bbox": [x, y, int(xs[-1]) + 1 - x, int(ys[-1]) + 1 - y],
        "area": int(mask.sum()),
        "segmentation": mask_to_polygons(mask),
    }


def _choose_unlabelled(scene: Scene, share: float, rng: np.random.Generator) -> set[int]:
    """Items to leave without annotation: never the only one of their class."""
    by_class: dict[int, list[int]] = {}
    for i, item in enumerate(scene.items):
        by_class.setdefault(item.class_index, []).append(i)
    left_out: set[int] = set()
    for class_index, items in sorted(by_class.items()):
        if class_index >= 0 and len(items) > 1 and rng.random() < share:
            left_out.update(items[1:])
    return left_out


def _ids(class_indices) -> list[int]:
    return [int(c) + 1 for c in class_indices]


def render_image(spec: SplitSpec, index: int, classes: list[int]) -> dict:
    """Draw and write image `index` of a split; return `{"image": ..., "annotations": [...]}`.

    The random numbers depend on seed, split and index alone, so that the number of processes
    changes no picture.
    """
    rng = np.random.default_rng([spec.seed, SPLITS.index(spec.split), index])
    scene = compose(classes, spec.looks, spec.image_size, spec.style, rng)
    unlabelled = _choose_unlabelled(scene, spec.style.unlabelled, rng)
    masks = scene.visible_masks()
    present = {scene.items[i].class_index for i in masks}
    image_id = spec.first_id + index
    name = f"{spec.split}/{index + 1:06d}.jpg"
    write_atomically(spec.root / name, background.photograph(scene.canvas, spec.style, rng))
    image = {
        "id": image_id,
        "width": spec.image_size,
        "height": spec.image_size,
        "file_name": name,
        "coco_url": f"icons_lt/{name}",
        "license": 1,
        "flickr_url": "",
        "date_captured": "2025-01-01 00:00:00",
        "neg_category_ids": _ids(plan.negatives(present, spec.family, rng)),
        "not_exhaustive_category_ids": _ids(
            sorted({scene.items[i].class_index for i in unlabelled})
        ),
    }
    annotations = [
        _annotation(scene.items[i].class_index, image_id, mask)
        for i, mask in masks.items()
        if i not in unlabelled
    ]
    return {"image": image, "annotations": annotations}
