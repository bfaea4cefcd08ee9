"""Which evaluator a dataset gets."""

from __future__ import annotations

import os

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators

from balms_det.data.class_stats import COMMON_MAX, RARE_MAX, build_class_stats
from balms_det.data.summary_cache import annotation_summary
from balms_det.evaluation.evaluator import LongTailEvaluator


def build_evaluator(cfg, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """Build the evaluator of a registered dataset, in LVIS or COCO format.

    It gives AP, AP50, AP75, APs, APm, APl, APr, APc, APf and average recall, for boxes and masks.
    Rare, common and frequent classes are those that the dataset labels; where it labels none, or
    where ``TEST.FREQUENCY_LIMITS`` differs from LVIS's limits, their training images are counted.
    A model with keypoints gets Detectron2's keypoint AP as well.

    Args:
        cfg: reads ``TEST.FREQUENCY_LIMITS``, ``MODEL.KEYPOINT_ON``, ``OUTPUT_DIR``, and what
            ``build_class_stats`` reads.
        dataset_name: registered name; its metadata carries ``evaluator_type``.
        output_folder: where predictions are written. By default ``OUTPUT_DIR/inference``, and its
            subfolder of the dataset's name where several datasets are tested.

    Raises:
        ValueError: the dataset's ``evaluator_type`` is neither "lvis" nor "coco".
    """
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type")
    if kind not in ("lvis", "coco"):
        raise ValueError(
            f"no evaluator for dataset {dataset_name!r}: its metadata has evaluator_type={kind!r}, "
            "and balms_det evaluates 'lvis' and 'coco'. Register it through DATASETS.FILES or set "
            "MetadataCatalog.get(name).evaluator_type."
        )
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    if not output_folder and len(cfg.DATASETS.TEST) > 1:
        folder = os.path.join(folder, dataset_name)
    groups = frequency_groups(cfg, metadata.json_file) if metadata.get("json_file") else None
    evaluator = LongTailEvaluator(dataset_name, folder, groups=groups)
    if kind == "coco" and cfg.MODEL.KEYPOINT_ON:
        keypoints = COCOEvaluator(dataset_name, ("keypoints",), output_dir=folder)
        return DatasetEvaluators([evaluator, keypoints])
    return evaluator


def frequency_groups(cfg, json_file: str) -> list[str] | None:
    """Label of each category by its training images; None where the file's own labels count.

    Raises:
        ValueError: the training data has another number of classes than the file.
    """
    limits = tuple(cfg.TEST.FREQUENCY_LIMITS)
    summary = annotation_summary(json_file)
    if summary.frequency is not None and limits == (RARE_MAX, COMMON_MAX):
        return None
    if not cfg.DATASETS.TRAIN and not cfg.DATASETS.CLASS_COUNTS:
        return None  # nothing to count: no groups
    stats = build_class_stats(cfg)
    if stats.num_classes != len(summary.category_ids):
        raise ValueError(
            f"{json_file} has {len(summary.category_ids)} classes, and the training data, whose "
            f"counts make the frequency groups, has {stats.num_classes}."
        )
    return stats.frequency_groups(*limits)
