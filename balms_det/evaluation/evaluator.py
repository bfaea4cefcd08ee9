"""The evaluator that training uses: AP by frequency group, for LVIS- and COCO-format data.

Two evaluations may run in one folder at once, so every file of a running one is its own: its name
holds the run, and its process holds a lock on it. A run without a lock has ended.

"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import logging
import math
import os
import re
import secrets
from collections import defaultdict
from pathlib import Path
from typing import BinaryIO

import msgspec
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table

from balms_det.annotations.class_identity import ClassList
from balms_det.annotations.read import read_annotation_json
from balms_det.annotations.summary import annotation_summary
from balms_det.data.class_stats import (
    COMMON_MAX,
    RARE_MAX,
    build_class_stats,
    dataset_source_name,
)
from balms_det.evaluation.lvis import Groups, evaluate_lvis
from balms_det.evaluation.results.chunks import ResultsError

_logger = logging.getLogger(__name__)
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


class _Anything(msgspec.Struct, gc=False):
    """An object of which nothing is read."""


class _Annotations(msgspec.Struct):
    annotations: list[_Anything] = []  # test sets ship without


class LongTailEvaluator(DatasetEvaluator):
    """Box and mask AP by LVIS's or COCO's rules, with AP of rare, common and frequent classes.

    Every rank streams its predictions to a file beside the results; rank 0 joins the files into
    ``<output_dir>/<format>_instances_results.json`` and evaluates that. So memory does not grow
    with the number of images, and the results file serves all tools.

    Args:
        dataset_name: registered dataset. Its metadata have ``json_file`` (LVIS or COCO format), or
            it is written in COCO format, as Detectron2's ``COCOEvaluator`` does.
        output_dir: folder of the results, shared by all ranks.
        groups: see ``evaluate_lvis``; None takes the dataset's own ``frequency``.
        max_dets: detections that count, see ``evaluate_lvis``; None for the number of the rules.
        rule: see ``evaluate_lvis``.
        distributed: False where only this process evaluates.

    Raises:
        ValueError: see :func:`evaluated_json`.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str,
        *,
        groups: Groups | None = None,
        max_dets: int | None = None,
        rule: str = "default",
        distributed: bool = True,
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self._json_file = evaluated_json(dataset_name)
        self._category_ids = _category_ids(metadata)
        if self._json_file is None:
            self._json_file = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            if not distributed or comm.is_main_process():  # where it is read
                convert_to_coco_json(dataset_name, self._json_file, allow_cached=False)
        self._options = {"max_dets": max_dets, "rule": rule, "groups": groups}
        self._world_size = comm.get_world_size() if distributed else 1
        kind = metadata.get("evaluator_type", "coco")
        target = Path(output_dir, f"{kind}_instances_results.json")
        self._shards = PredictionShards(target, comm.get_rank() if distributed else 0)
        self._has_masks = False

    def reset(self) -> None:
        self._has_masks = False
        run = new_run()
        if self._world_size > 1:
            run = comm.all_gather(run)[0]
        self._shards.open(run)

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
        try:
            return self._evaluate_all(found, any(has_masks))
        except ResultsError as error:  # it names the file that is published in the next moment
            own, target = str(self._shards.joined), str(self._shards.target)
            raise ResultsError(str(error).replace(own, target)) from error
        finally:
            self._shards.publish()

    def _evaluate_all(self, found: bool, has_masks: bool) -> dict[str, dict[str, float]]:
        if not read_annotation_json(self._json_file, _Annotations).annotations:
            _logger.info("%s has no annotations: wrote %s", self._json_file, self._shards.target)
            return {}
        tasks = ("bbox", "segm") if has_masks else ("bbox",)
        return {task: self._evaluate(task, found) for task in tasks}

    def _evaluate(self, task: str, found: bool) -> dict[str, float]:
        if not found:
            _logger.warning("No detection on any image: %s is undefined.", task)
            return dict.fromkeys(METRICS, math.nan)
        results = str(self._shards.joined)
        result = evaluate_lvis(self._json_file, results, task, **self._options)
        metrics = {name: percent(value) for name, value in result.metrics.items()}
        _logger.info(
            "Evaluation of %s by the rule %r:\n%s", task, result.rule, create_small_table(metrics)
        )
        return metrics


def percent(value: float) -> float:
    """A fraction in percent; NaN where it is undefined (negative)."""
    return 100.0 * value if value >= 0 else math.nan


def _category_ids(metadata):
    """From Detectron2's contiguous class to the dataset's category id."""
    mapping = metadata.get("thing_dataset_id_to_contiguous_id")
    if mapping is None and not metadata.get("json_file"):
        return lambda index: index  # as Detectron2 writes the json
    if mapping is None:
        return lambda index: index + 1  # LVIS, as Detectron2 registers it
    return {index: category_id for category_id, index in mapping.items()}.__getitem__


def evaluated_json(dataset_name: str) -> str | None:
    """The annotation file that a dataset is evaluated against; None where there is none yet.

    Raises:
        ValueError: its ``evaluator_type`` is neither "lvis" nor "coco", or it has no class names.
    """
    metadata = MetadataCatalog.get(dataset_name)
    kind, json_file = metadata.get("evaluator_type"), metadata.get("json_file")
    if kind not in ("lvis", "coco") and (kind or json_file):
        raise ValueError(
            f"no evaluator for dataset {dataset_name!r}: its metadata has evaluator_type={kind!r}, "
            "and balms_det evaluates 'lvis' and 'coco'. Register it through DATASETS.FILES or set "
            "MetadataCatalog.get(name).evaluator_type."
        )
    if kind == "lvis" and not json_file:
        raise ValueError(
            f"dataset {dataset_name!r} is of evaluator_type 'lvis' and has no json_file in its "
            "metadata: register it through DATASETS.FILES."
        )
    if not json_file and not metadata.get("thing_classes"):
        raise ValueError(
            f"dataset {dataset_name!r} has no json_file in its metadata, no evaluator_type that "
            "asks for one, and does not name its classes: set "
            "MetadataCatalog.get(name).thing_classes where it is registered."
        )
    return json_file


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
    json_file = evaluated_json(dataset_name)
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    if not output_folder and len(cfg.DATASETS.TEST) > 1:
        folder = os.path.join(folder, dataset_name)
    groups = frequency_groups(cfg, json_file) if json_file else _groups_of_python(cfg, dataset_name)
    evaluator = LongTailEvaluator(dataset_name, folder, groups=groups)
    if MetadataCatalog.get(dataset_name).get("evaluator_type") != "lvis" and cfg.MODEL.KEYPOINT_ON:
        keypoints = COCOEvaluator(dataset_name, ("keypoints",), output_dir=folder)
        return DatasetEvaluators([evaluator, keypoints])
    return evaluator


def _groups_of_python(cfg, dataset_name: str) -> list[str] | None:
    if not cfg.DATASETS.TRAIN and not cfg.DATASETS.CLASS_COUNTS:
        return None
    stats = build_class_stats(cfg)
    names = MetadataCatalog.get(dataset_name).thing_classes
    if stats.names is not None and list(stats.names) != list(names):
        raise ValueError(
            f"dataset {dataset_name!r} has the classes {', '.join(names)}, and the training data "
            f"{', '.join(stats.names)}: name the same, in the same order."
        )
    return stats.frequency_groups(*cfg.TEST.FREQUENCY_LIMITS)


def frequency_groups(cfg, json_file: str) -> list[str] | None:
    """Label of each category by its training images; None where the file's own labels count.

    Raises:
        ClassListError: the training data has other classes than the file.
    """
    limits = tuple(cfg.TEST.FREQUENCY_LIMITS)
    summary = annotation_summary(json_file)
    if summary.frequency is not None and limits == (RARE_MAX, COMMON_MAX):
        return None
    if not cfg.DATASETS.TRAIN and not cfg.DATASETS.CLASS_COUNTS:
        return None  # nothing to count: no groups
    wanted = ClassList.of(json_file, summary.names, summary.category_ids)
    counted = cfg.DATASETS.CLASS_COUNTS or ", ".join(map(dataset_source_name, cfg.DATASETS.TRAIN))
    return build_class_stats(cfg).in_order_of(wanted, counted).frequency_groups(*limits)


_COPY_BYTES = 1 << 20
_OURS = re.compile(r"rank\d+(\.part)?|joined\.part")


def new_run() -> str:
    """A name that no other run has."""
    return secrets.token_hex(8)


class PredictionShards:
    """A file of predictions per rank: ``<stem>.<run>.rank0``, ``<stem>.<run>.rank1``, ...

    A rank writes ``<stem>.<run>.rank0.part`` and renames it when it is done, so a file of the final
    name is whole. Rank 0 joins them into a file of its own, which becomes the results file when it
    is published. A new evaluation removes what ended ones have left.

    Args:
        target: the results file; the shards lie beside it, on a file system that all ranks share.
        rank: this process.
    """

    def __init__(self, target: Path, rank: int) -> None:
        self.target = target
        self._rank = rank
        self._run = ""
        self._file: BinaryIO | None = None
        self._joined: BinaryIO | None = None

    @property
    def joined(self) -> Path:
        """The joined predictions of this run, until they are published."""
        return self._path("joined.part")

    def open(self, run: str) -> None:
        """Start anew, without predictions.

        Args:
            run: the name of this evaluation, the same on all ranks.
        """
        self.close()
        self.target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(self.target)
        self._run = run
        self._file = _locked(self._part)

    def write(self, entries: list[dict]) -> None:
        """Append entries of the results list."""
        if entries:
            self._file.write(msgspec.json.encode(entries)[1:-1] + b"\n")

    def finish(self) -> None:
        """Declare this rank's shard whole."""
        self._file.flush()
        os.replace(self._part, self._shard(self._rank))

    def close(self) -> None:
        """Give the files of this run up; whatever is still there may be removed."""
        for file in (self._file, self._joined):
            if file is not None:
                file.close()
        self._file = self._joined = None

    def join(self, world_size: int) -> bool:
        """Join the whole shards of all ranks into ``joined``, a json list, and remove them.

        Returns:
            Whether there is any prediction.

        Raises:
            FileNotFoundError: the shard of a rank is not there.
        """
        shards = [self._shard(rank) for rank in range(world_size)]
        missing = [shard for shard in shards if not shard.exists()]
        if missing:
            raise FileNotFoundError(
                f"the predictions of {len(missing)} of {world_size} ranks are missing, e.g. "
                f"{missing[0]}: all machines must share the folder {self.target.parent}."
            )
        self._joined = file = _locked(self.joined)
        first = True
        file.write(b"[")
        for shard in shards:
            first = _append(file, shard, first)
        file.write(b"]")
        file.flush()
        for shard in shards:
            shard.unlink()
        return not first

    def publish(self) -> None:
        """Make the joined predictions the results file."""
        os.replace(self.joined, self.target)
        self.close()

    @property
    def _part(self) -> Path:
        return self._path(f"rank{self._rank}.part")

    def _shard(self, rank: int) -> Path:
        return self._path(f"rank{rank}")

    def _path(self, what: str) -> Path:
        return self.target.with_name(f"{self.target.stem}.{self._run}.{what}")


def _locked(path: Path) -> BinaryIO:
    """A new file that this process holds a lock on, as long as it is open."""
    while True:
        file = path.open("wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()  # removed in the moment before it was locked


def _remove_left(target: Path) -> None:
    """Remove the files of runs of which no process holds a lock any more."""
    stem = target.with_name(target.stem)
    runs = defaultdict(list)
    for name in glob.glob(f"{glob.escape(str(stem))}.*.*"):
        run, _, what = name[len(str(stem)) + 1 :].partition(".")
        if _OURS.fullmatch(what):
            runs[run].append(name)
    for names in runs.values():
        with contextlib.ExitStack() as locks:
            try:
                for name in names:
                    file = locks.enter_context(open(name, "rb"))
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for name in names:
                    os.unlink(name)
            except (BlockingIOError, FileNotFoundError):
                continue  # it runs, or another process is removing it


def _append(file, shard: Path, first: bool) -> bool:
    """Copy a shard's lines, commas between them; whether still nothing is written."""
    with open(shard, "rb", buffering=_COPY_BYTES) as lines:
        for line in lines:
            file.write(line if first else b"," + line)
            first = False
    return first
