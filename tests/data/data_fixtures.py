"""Small images on disk and dataset dicts for the tests of mapper, copy-paste and loader."""

import numpy as np
from detectron2.config import get_cfg
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

from balms_det import add_balms_config


def save_image(path, pixels):
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)
    return str(path)


def rectangle(x0, y0, x1, y1):
    """One polygon around pixels x0 to x1 - 1 and y0 to y1 - 1."""
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def annotation(category, box, *, size=None, **more):
    """A rectangular instance; with ``size`` (height, width) its mask is an RLE."""
    segmentation = rectangle(*box)
    if size is not None:
        mask = np.zeros(size, dtype=np.uint8, order="F")
        mask[box[1] : box[3], box[0] : box[2]] = 1
        segmentation = mask_util.encode(mask)
    return {
        "category_id": category,
        "bbox": list(box),
        "bbox_mode": BoxMode.XYXY_ABS,
        "segmentation": segmentation,
        "iscrowd": 0,
        **more,
    }


def record(path, pixels, annotations, image_id=1, **more):
    height, width = np.shape(pixels)[:2]
    return {
        "file_name": save_image(path, pixels),
        "image_id": image_id,
        "height": height,
        "width": width,
        "annotations": annotations,
        **more,
    }


def small_config(**keys):
    """Detectron2's config with our keys, 64-pixel images; keys are dotted with ``__``."""
    cfg = get_cfg()
    add_balms_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    cfg.INPUT.MAX_SIZE_TRAIN = 80
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.MODEL.MASK_ON = True
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SEED = 1
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg
