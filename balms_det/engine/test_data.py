"""The data of ``DATASETS.TEST``, looked at before a training and not after it."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from balms_det.data.build import called
from balms_det.data.data_checks import check_image_files, check_masks
from balms_det.evaluation.evaluator import evaluated_json
from balms_det.evaluation.ground_truth import read_ground_truth


def check_test_data(cfg: CfgNode) -> None:
    """Look at all datasets of ``DATASETS.TEST``.

    Raises:
        FileNotFoundError: image files are missing.
        ValueError: no evaluator for a dataset, or ground truth that it cannot use; with
            ``MODEL.MASK_ON`` also masks that are missing or cannot be drawn.
    """
    for name in cfg.DATASETS.TEST:
        json_file = evaluated_json(name)
        dataset = DatasetCatalog.get(name)
        check_image_files(called([name]), dataset)
        if json_file is None:
            check_masks(cfg, called([name]), dataset)
        elif any(record.get("annotations") for record in dataset):
            read_ground_truth(json_file, masks=cfg.MODEL.MASK_ON)
