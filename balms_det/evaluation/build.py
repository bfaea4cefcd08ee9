"""Which evaluator a dataset gets."""

import os

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, LVISEvaluator

from balms_det.evaluation.lvis_package import import_lvis


def build_evaluator(cfg, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """Build the evaluator that fits a registered dataset.

    LVIS-format data gives AP, AP50, AP75, APs, APm, APl, APr, APc and APf for boxes and masks;
    COCO-format data Detectron2's COCO metrics.

    Args:
        cfg: reads ``OUTPUT_DIR`` when ``output_folder`` is None.
        dataset_name: registered name; its metadata carries ``evaluator_type``.
        output_folder: where predictions are written.

    Raises:
        ValueError: the dataset's ``evaluator_type`` is neither "lvis" nor "coco".
    """
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind == "lvis":
        import_lvis()
        return LVISEvaluator(dataset_name, output_dir=folder)
    if kind == "coco":
        return COCOEvaluator(dataset_name, output_dir=folder)
    raise ValueError(
        f"no evaluator for dataset {dataset_name!r}: its metadata has evaluator_type={kind!r}, and "
        "balms_det evaluates 'lvis' and 'coco'. Register it through DATASETS.FILES or set "
        "MetadataCatalog.get(name).evaluator_type."
    )
