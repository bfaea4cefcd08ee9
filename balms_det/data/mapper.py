"""From a dataset dict to a training example, with no two draws of an image the same picture."""

from __future__ import annotations

import copy
from types import FunctionType, SimpleNamespace

import numpy as np
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, dataset_mapper, detection_utils
from detectron2.data import transforms as T
from detectron2.utils.file_io import PathManager

from balms_det.data.copy_paste import CopyPaste
from balms_det.data.image_errors import image_errors_name
from balms_det.data.image_reader import read_image
from balms_det.data.repeat_jitter import RepeatJitter


def _read_image(file_name: str, format: str) -> np.ndarray:
    return read_image(file_name, format, PathManager.open)


# Detectron2's mapping as it is, that calls another reader of pictures by the same name. Nothing of
# Detectron2 changes for others, and two threads may map at once.
_UTILS = SimpleNamespace(**{**vars(detection_utils), "read_image": _read_image})
_map_strictly = FunctionType(
    DatasetMapper.__call__.__code__, {**vars(dataset_mapper), "utils": _UTILS}
)


class StrictDatasetMapper(DatasetMapper):
    """Detectron2's mapper that reads pictures by :func:`balms_det.data.image_reader.read_image`."""

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
