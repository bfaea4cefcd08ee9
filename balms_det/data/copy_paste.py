"""Copy-paste of scarce instances (Ghiasi et al., CVPR 2021) into the images a sampler repeats.

Coordinates are (x, y) pixels of the images as they lie on disk, before any augmentation. A *record*
is a Detectron2 dataset dict. Masks are (H, W) bool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from fvcore.transforms.transform import Transform
from PIL import Image
from torch.utils.data import Dataset

from balms_det.annotations.image_reader import read_image
from balms_det.annotations.images import image_errors_name
from balms_det.annotations.masks import (
    mask_to_box,
    mask_to_rle,
    rle_to_mask,
    rles_overlap,
    segmentation_to_rle,
)

# A pasted instance is not resized to less than this side, in pixels.
MIN_SIDE = 2


@dataclass(frozen=True)
class Patch:
    """Pixels (h, w, C), their mask (h, w) and where they go: ``left``, ``top`` of the target."""

    pixels: np.ndarray
    mask: np.ndarray
    left: int
    top: int

    def clip(self, height: int, width: int) -> Patch:
        """The part that lies inside a height by width image."""
        x0, y0 = max(-self.left, 0), max(-self.top, 0)
        x1, y1 = width - self.left, height - self.top
        inside = np.s_[y0 : max(y1, y0), x0 : max(x1, x0)]
        return Patch(self.pixels[inside], self.mask[inside], self.left + x0, self.top + y0)

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.mask.shape
        return np.s_[self.top : self.top + height, self.left : self.left + width]


class PasteTransform(Transform):
    """Writes patches into an image, the last one on top. Coordinates and masks stay as they are."""

    def __init__(self, patches: Sequence[Patch]):
        super().__init__()
        self.patches = patches

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        img = img.copy()
        for patch in self.patches:
            img[patch.window][patch.mask] = patch.pixels[patch.mask]
        return img

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation


class CopyPaste:
    """Chooses instances to paste into a record and updates the record's annotations.

    Randomness comes from numpy's global generator, which the loader seeds per worker. A map for
    semantic segmentation (``sem_seg_file_name``) is not changed.

    Args:
        pool: the instances to draw from.
        image_format: as ``INPUT.FORMAT``.
        prob: chance that a record gets anything.
        max_instances: 1 to this many instances are tried.
        scale: range of the factor an instance is resized by.
        min_visible: an instance that keeps less than this share of its area is dropped.
        dataset_ids: id in the dataset's own numbering of every contiguous class id, for
            ``neg_category_ids``; left out, LVIS's, which count from 1.
    """

    def __init__(
        self,
        pool: InstancePool,
        *,
        image_format: str = "BGR",
        prob: float = 1.0,
        max_instances: int = 2,
        scale: tuple[float, float] = (0.8, 1.25),
        min_visible: float = 0.2,
        dataset_ids: Mapping[int, int] | None = None,
    ):
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(
                f"INPUT.COPY_PASTE.SCALE must be [low, high] with 0 < low, got {scale}."
            )
        self.pool = pool
        self.image_format = image_format
        self.prob = prob
        self.max_instances = max_instances
        self.scale = scale
        self.min_visible = min_visible
        self.dataset_ids = dataset_ids

    def __call__(self, record: dict) -> tuple[dict, PasteTransform | None]:
        """A changed copy of ``record`` and what to do to its image; ``(record, None)`` for nothing.

        A record with an instance that has no mask is left alone: what would be covered is unknown.
        """
        annotations = record.get("annotations") or []
        things = [a for a in annotations if not a.get("iscrowd", 0)]
        if np.random.rand() >= self.prob or not all(a.get("segmentation") for a in things):
            return record, None
        height, width = record["height"], record["width"]
        pasted = []
        for _ in range(np.random.randint(self.max_instances) + 1):
            source, annotation = self.pool.draw()
            patch = self.cut(source, annotation, height, width)
            if patch.mask.any():
                pasted.append((patch, annotation))
        if not pasted:
            return record, None
        return self._compose(record, pasted), PasteTransform([patch for patch, _ in pasted])

    def _compose(self, record: dict, pasted: list[tuple[Patch, dict]]) -> dict:
        """The record after the patches went in: from the top patch down, what is left of each."""
        shape = record["height"], record["width"]
        covered = np.zeros(shape, dtype=bool)
        below = []
        for patch, source in reversed(pasted):
            mask = np.zeros(shape, dtype=bool)
            mask[patch.window] = patch.mask
            new = {"category_id": source["category_id"], "iscrowd": 0}
            below.append(self._visible_part(new, mask, covered))
            covered |= mask
        covered_rle = mask_to_rle(covered)
        kept = []
        for annotation in record.get("annotations") or ():
            if not annotation.get("iscrowd", 0):
                rle = segmentation_to_rle(annotation["segmentation"], *shape)
                if rles_overlap(rle, covered_rle):
                    annotation = self._visible_part(annotation, rle_to_mask(rle), covered)
            kept.append(annotation)
        annotations = [a for a in (*kept, *reversed(below)) if a is not None]
        return {**record, "annotations": annotations, **self._negatives(record, pasted)}

    def _visible_part(self, annotation: dict, mask: np.ndarray, covered: np.ndarray) -> dict | None:
        """A copy of the annotation with what is not covered of its mask; None for too little."""
        visible = mask & ~covered
        area = int(visible.sum())
        if area == 0 or area < self.min_visible * int(mask.sum()):
            return None
        return {
            **annotation,
            "segmentation": mask_to_rle(visible),
            "bbox": mask_to_box(visible),
            "bbox_mode": BoxMode.XYXY_ABS,
        }

    def _negatives(self, record: dict, pasted: list[tuple[Patch, dict]]) -> dict:
        """``neg_category_ids`` without the pasted classes: they are in the image now."""
        if "neg_category_ids" not in record:
            return {}
        classes = [source["category_id"] for _, source in pasted]
        present = {self.dataset_ids[c] if self.dataset_ids else c + 1 for c in classes}
        kept = [c for c in record["neg_category_ids"] if c not in present]
        return {"neg_category_ids": kept}

    def cut(self, source: dict, annotation: dict, height: int, width: int) -> Patch:
        """Cut an instance out of its image and place it at random; its centre stays inside."""
        with image_errors_name(source):
            image = read_image(source["file_name"], self.image_format, PathManager.open)
        mask = rle_to_mask(segmentation_to_rle(annotation["segmentation"], *image.shape[:2]))
        if not mask.any():
            return Patch(image[:0, :0], mask[:0, :0], 0, 0)
        x0, y0, x1, y1 = mask_to_box(mask)
        factor = np.random.uniform(*self.scale)
        size = max(round((x1 - x0) * factor), MIN_SIDE), max(round((y1 - y0) * factor), MIN_SIDE)
        pixels = _resize(image[y0:y1, x0:x1], size, Image.Resampling.BILINEAR)
        mask = _resize(mask[y0:y1, x0:x1], size, Image.Resampling.NEAREST)
        left = np.random.randint(width) - size[0] // 2
        top = np.random.randint(height) - size[1] // 2
        return Patch(pixels.reshape(*mask.shape, -1), mask, left, top).clip(height, width)


def _resize(array: np.ndarray, size: tuple[int, int], resampling: Image.Resampling) -> np.ndarray:
    """Resize (h, w) or (h, w, C) to ``size``, (width, height)."""
    planes = array.reshape(*array.shape[:2], -1)
    resized = [
        np.asarray(Image.fromarray(planes[..., i]).resize(size, resampling))
        for i in range(planes.shape[2])
    ]
    return np.stack(resized, axis=-1).reshape(size[1], size[0], *array.shape[2:])


class InstancePool:
    """Where the instances of the chosen classes are: (I,) arrays of record and annotation numbers.

    Args:
        records: the training set, searched once.
        classes: contiguous ids of the classes to draw from.
        storage: the same records, where :meth:`draw` reads them. Loader workers share the memory of
            a ``DatasetFromList``; a plain list they slowly copy, page by page.

    Raises:
        ValueError: no class has an instance with a mask.
    """

    def __init__(
        self,
        records: Sequence[dict],
        classes: Sequence[int],
        storage: Sequence[dict] | Dataset | None = None,
    ):
        self.storage = records if storage is None else storage
        wanted = set(classes)
        found = [
            (annotation["category_id"], r, a)
            for r, record in enumerate(records)
            for a, annotation in enumerate(record.get("annotations") or ())
            if annotation["category_id"] in wanted
            and annotation.get("segmentation")
            and not annotation.get("iscrowd", 0)
        ]
        if not found:
            raise ValueError(
                "INPUT.COPY_PASTE found no instance to paste: none of the classes in the frequency "
                "groups of INPUT.COPY_PASTE.GROUPS has an instance with a mask. Choose others."
            )
        category, self._record, self._annotation = np.array(sorted(found), dtype=np.int64).T
        _, self._start, self._count = np.unique(category, return_index=True, return_counts=True)

    def __len__(self) -> int:
        return len(self._record)

    def draw(self) -> tuple[dict, dict]:
        """A record and one of its annotations: first a class, evenly, then one of its instances."""
        group = np.random.randint(len(self._start))
        i = self._start[group] + np.random.randint(self._count[group])
        record = self.storage[int(self._record[i])]
        return record, record["annotations"][int(self._annotation[i])]
