"""From a dataset dict to a training example, with no two draws of an image the same picture.

Symbols: ``n`` draws of the image in the epoch (``num_repeats``), ``k`` the number of this draw,
0 to n - 1 (``repeat``). Random augmentation alone cannot promise that two draws differ: two coin
flips agree half of the time. So the picture carries ``k`` in two properties that can be told from
the result, whatever was done to the image before:

- the sides of the picture, each enlarged by less than ``grid`` pixels until the remainders of
  height and width modulo ``grid`` spell out ``k % grid**2``: other remainders, another shape;
- its brightness level, ``(k // grid**2 + k % grid**2) % levels``: two levels map no grey value to
  the same one, so that pictures of equal shape with the same pixels, flipped or not, differ in sum.

"""

from __future__ import annotations

import copy
import math
from types import FunctionType, SimpleNamespace

import numpy as np
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, dataset_mapper, detection_utils
from detectron2.data import transforms as T
from detectron2.utils.file_io import PathManager
from fvcore.transforms.transform import BlendTransform, TransformList

from balms_det.annotations.image_reader import read_image
from balms_det.annotations.images import image_errors_name
from balms_det.data.copy_paste import CopyPaste


def _read_image(file_name: str, format: str) -> np.ndarray:
    return read_image(file_name, format, PathManager.open)


# Detectron2's mapping as it is, that calls another reader of pictures by the same name. Nothing of
# Detectron2 changes for others, and two threads may map at once.
_UTILS = SimpleNamespace(**{**vars(detection_utils), "read_image": _read_image})
_map_strictly = FunctionType(
    DatasetMapper.__call__.__code__, {**vars(dataset_mapper), "utils": _UTILS}
)


class StrictDatasetMapper(DatasetMapper):
    """Detectron2's mapper that reads pictures by :mod:`balms_det.annotations.image_reader`."""

    def __call__(self, dataset_dict: dict) -> dict:
        """Map one dataset dict; see ``DatasetMapper``.

        Raises:
            FileNotFoundError, OSError: the image is missing, or cannot be read whole.
        """
        with image_errors_name(dataset_dict):
            return _map_strictly(self, dataset_dict)


class RepeatFactorDatasetMapper(StrictDatasetMapper):
    """Detectron2's mapper for samplers that draw an image several times an epoch.

    A dataset dict may carry ``repeat`` (which draw of the image in this epoch, from 0) and
    ``num_repeats`` (of how many), as :class:`balms_det.data.draws.DrawAwareDataset` adds them. An
    image that is drawn once, or that carries nothing, gets Detectron2's standard augmentation and
    nothing else. All draws of a repeated one get a :class:`RepeatJitter` after it, which makes them
    pairwise different, and the repeats after the first get copy-paste if it is on.

    Args:
        is_train: training or inference, as in ``DatasetMapper``.
        copy_paste: pastes instances into repeats; None for none.
        **kwargs: ``DatasetMapper``'s own arguments.

    Raises:
        ValueError: copy-paste together with polygon masks or keypoints.
    """

    @configurable
    def __init__(self, is_train: bool, *, copy_paste: CopyPaste | None = None, **kwargs):
        super().__init__(is_train, **kwargs)
        if copy_paste is not None:
            self._check_copy_paste()
        self.copy_paste = copy_paste

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        return super().from_config(cfg, is_train)

    def _check_copy_paste(self) -> None:
        if self.use_instance_mask and self.instance_mask_format != "bitmask":
            raise ValueError(
                "INPUT.COPY_PASTE.ENABLED needs INPUT.MASK_FORMAT: bitmask: a partly covered "
                f"instance is no polygon; it is {self.instance_mask_format!r}."
            )
        if self.use_keypoint:
            raise ValueError("INPUT.COPY_PASTE.ENABLED does not go with MODEL.KEYPOINT_ON.")

    def __call__(self, dataset_dict: dict) -> dict:
        """Map one dataset dict; see ``DatasetMapper``.

        Raises:
            FileNotFoundError, OSError: the image is missing, or cannot be read whole.
        """
        repeat = dataset_dict.get("repeat", 0)
        num_repeats = dataset_dict.get("num_repeats", repeat + 1)
        before, after = [], []
        if self.is_train and num_repeats > 1:
            after.append(RepeatJitter(repeat, num_repeats))
            if repeat and self.copy_paste is not None:
                dataset_dict, paste = self.copy_paste(dataset_dict)
                before.extend([paste] if paste else [])
        return self._map(dataset_dict, before, after)

    def _map(self, dataset_dict: dict, before: list, after: list) -> dict:
        # The augmentations of this call live in a shallow copy: the mapper itself never changes.
        once = copy.copy(self)
        once.augmentations = T.AugmentationList([*before, *self.augmentations.augs, *after])
        return StrictDatasetMapper.__call__(once, dataset_dict)


# At least so much variation, in pixels and in brightness levels, however few the draws are.
MIN_GRID, MIN_LEVELS = 16, 8
# No more than so many pixels, so that memory stays what the configured image size says it is.
MAX_GRID = 48
# Grey values that the brightness levels spread over (when there are no more levels than that).
BRIGHTNESS_RANGE = 32


class RepeatJitter(T.Augmentation):
    """Scale, aspect ratio and brightness of an image, set by which of its draws this is.

    All ``num_repeats`` draws of an image must get it, the first included. With more than
    ``48 * 48 * 255`` draws of one image in one epoch the pictures start over.

    Args:
        repeat: ``k``, from 0.
        num_repeats: ``n``, more than ``k``.
    """

    def __init__(self, repeat: int, num_repeats: int):
        super().__init__()
        if not 0 <= repeat < num_repeats:
            raise ValueError(f"repeat must be in [0, num_repeats), got {repeat} of {num_repeats}.")
        self.repeat = repeat
        self.num_repeats = num_repeats
        self.grid = min(max(MIN_GRID, math.isqrt(num_repeats - 1) + 1), MAX_GRID)
        self.levels = min(max(MIN_LEVELS, math.ceil(num_repeats / self.grid**2)), 255)

    def get_transform(self, image: np.ndarray) -> TransformList:
        """Transform of a (H, W, C) image; only a uint8 image changes its brightness."""
        height, width = image.shape[:2]
        new_height, new_width = self._shape(height, width)
        transforms = [T.ResizeTransform(height, width, new_height, new_width)]
        if image.dtype == np.uint8:
            transforms.append(self._brightness())
        return TransformList(transforms)

    def _shape(self, height: int, width: int) -> tuple[int, int]:
        # Successive draws should look different, not differ by a pixel: step through the cells by
        # the golden section. The step is coprime to the number of cells, so none comes up twice.
        cells = self.grid**2
        step = round(cells * 0.618)
        while math.gcd(step, cells) != 1:
            step += 1
        row, column = divmod(self.repeat * step % cells, self.grid)
        return height + (row - height) % self.grid, width + (column - width) % self.grid

    def _brightness(self) -> BlendTransform:
        # value -> offset + gain * value, with whole offsets, at least 1 apart: rounding down then
        # keeps every two levels apart at every grey value, and nothing is clipped.
        level = sum(divmod(self.repeat, self.grid**2)) % self.levels
        step = max(BRIGHTNESS_RANGE // self.levels, 1)
        gain = 1 - (self.levels - 1) * step / 255
        return BlendTransform(np.float32(1), src_weight=step * level, dst_weight=gain)
