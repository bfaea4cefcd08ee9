"""The evaluator that training uses: AP by frequency group, for LVIS- and COCO-format data."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import msgspec
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

from balms_det.data.annotation_json import read_annotation_json
from balms_det.evaluation.lvis_eval import Groups, evaluate_lvis
from balms_det.evaluation.shards import PredictionShards

_logger = logging.getLogger(__name__)
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


class _Anything(msgspec.Struct, gc=False):
    """An object of which nothing is read."""


class _Annotations(msgspec.Struct):
    annotations: list[_Anything] = []  # test sets ship without


class LongTailEvaluator(DatasetEvaluator):
    """Box and mask AP by LVIS's rules, with AP of rare, common and frequent classes.

    Every rank streams its predictions to a file beside the results; rank 0 joins the files into
    ``<output_dir>/<format>_instances_results.json`` and evaluates that. So memory does not grow
    with the number of images, and the results file serves all tools.

    Args:
        dataset_name: registered dataset whose metadata has ``json_file`` (LVIS or COCO format).
        output_dir: folder of the results, shared by all ranks.
        groups: see ``evaluate_lvis``; None takes the dataset's own ``frequency``.
        max_dets: detections of an image that count.
        distributed: False where only this process evaluates.

    Raises:
        ValueError: the dataset has no ``json_file``.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str,
        *,
        groups: Groups | None = None,
        max_dets: int = 300,
        distributed: bool = True,
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self._json_file = metadata.get("json_file")
        if not self._json_file:
            raise ValueError(
                f"dataset {dataset_name!r} has no json_file in its metadata: evaluation needs an "
                "annotation file in LVIS or COCO format. Register it through DATASETS.FILES."
            )
        self._category_ids = _category_ids(metadata)
        self._groups = groups
        self._max_dets = max_dets
        self._world_size = comm.get_world_size() if distributed else 1
        kind = metadata.get("evaluator_type", "coco")
        target = Path(output_dir, f"{kind}_instances_results.json")
        self._shards = PredictionShards(target, comm.get_rank() if distributed else 0)
        self._has_masks = False

    def reset(self) -> None:
        self._has_masks = False
        self._shards.open()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Write the ``instances`` of some images to disk.

        Args:
            inputs: one dict an image with "image_id".
            outputs: one dict an image with "instances" (boxes, scores, classes, masks or none).
        """
        for image, output in zip(inputs, outputs):
            instances = output["instances"].to(torch.device("cpu"))
            self._has_masks |= instances.has("pred_masks")
            if instances.has("pred_keypoints"):
                instances.remove("pred_keypoints")
            entries = instances_to_coco_json(instances, image["image_id"])
            for entry in entries:
                entry["category_id"] = self._category_ids(entry["category_id"])
            self._shards.write(entries)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Join the predictions of all ranks and evaluate them.

        Returns:
            On rank 0 ``{"bbox": {"AP": percent, ...}, "segm": ...}``, NaN where undefined (a group
            without a class); ``{}`` where the dataset has no annotations. None on other ranks.

        Raises:
            FileNotFoundError: a rank's predictions are not in the shared folder.
            ValueError: see ``evaluate_lvis``.
        """
        self._shards.finish()
        has_masks = [self._has_masks]
        if self._world_size > 1:
            comm.synchronize()
            has_masks = comm.all_gather(self._has_masks)
            if not comm.is_main_process():
                return None
        found = self._shards.join(self._world_size)
        if not read_annotation_json(self._json_file, _Annotations).annotations:
            _logger.info("%s has no annotations: wrote %s", self._json_file, self._shards.target)
            return {}
        tasks = ("bbox", "segm") if any(has_masks) else ("bbox",)
        return {task: self._evaluate(task, found) for task in tasks}

    def _evaluate(self, task: str, found: bool) -> dict[str, float]:
        if not found:
            _logger.warning("No detection on any image: %s is undefined.", task)
            return dict.fromkeys(METRICS, math.nan)
        results = str(self._shards.target)
        result = evaluate_lvis(self._json_file, results, task, self._max_dets, groups=self._groups)
        metrics = {name: percent(value) for name, value in result.metrics.items()}
        _logger.info("Evaluation of %s:\n%s", task, create_small_table(metrics))
        return metrics


def percent(value: float) -> float:
    """A fraction in percent; NaN where it is undefined (negative)."""
    return 100.0 * value if value >= 0 else math.nan


def _category_ids(metadata):
    """From Detectron2's contiguous class to the dataset's category id."""
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    if mapping is None:
        return lambda index: index + 1  # LVIS, as Detectron2 registers it
    return {index: category_id for category_id, index in mapping.items()}.__getitem__
