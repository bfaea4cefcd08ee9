"""Checks of dataset dicts against the config and the disk, before the first iteration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from detectron2.config import CfgNode

from balms_det.annotations.masks import check_polygons
from balms_det.data.class_stats import ClassStats

# Disks in a network answer many questions at once, and one at a time slowly.
_THREADS = 16


def check_image_files(dataset: str, dataset_dicts: Sequence[dict]) -> None:
    """Raise FileNotFoundError, with their number and the first, where image files are missing.

    Names with ``://`` are not of this machine, and are not looked for.
    """
    paths = [record["file_name"] for record in dataset_dicts if "file_name" in record]
    paths = [path for path in paths if "://" not in str(path)]
    with ThreadPoolExecutor(_THREADS) as pool:
        there = list(pool.map(os.path.isfile, paths, chunksize=256))
    missing = [path for path, found in zip(paths, there) if not found]
    if missing:
        raise FileNotFoundError(
            f"{dataset}: {len(missing)} of {len(paths)} image files are missing, the first is "
            f"{missing[0]!r}. Check the image root of the dataset (the third entry of its row in "
            "DATASETS.FILES, or $DETECTRON2_DATASETS) and that all images are in place."
        )


def check_masks(cfg: CfgNode, dataset: str, dataset_dicts: Sequence[dict]) -> None:
    """Look at the masks of all objects that are trained on.

    Raises:
        ValueError: with ``MODEL.MASK_ON`` an object has no mask, an RLE that
            ``INPUT.MASK_FORMAT: polygon`` does not take, or an outline that cannot be drawn.
    """
    if not cfg.MODEL.MASK_ON:
        return
    without, total, first = 0, 0, ""
    for record, number, annotation in _things(dataset_dicts):
        total += 1
        mask = annotation.get("segmentation")
        if isinstance(mask, np.ndarray):
            continue
        if not mask:
            without += 1
            first = first or _place(record, number)
        elif isinstance(mask, dict):
            if cfg.INPUT.MASK_FORMAT == "polygon":
                raise ValueError(
                    f"{dataset}: the mask of {_place(record, number)} is an RLE, and "
                    "INPUT.MASK_FORMAT is 'polygon'. Set it to 'bitmask', which takes both kinds."
                )
        else:
            _check_outlines(dataset, record, number, mask)
    if without:
        raise ValueError(
            f"{dataset}: {without} of {total} objects have no mask, the first is {first}, and "
            "MODEL.MASK_ON is True. Set it to False, give them a 'segmentation', or take the "
            "objects out (crowds need none)."
        )


def _check_outlines(dataset: str, record: dict, number: int, polygons: list) -> None:
    try:
        check_polygons(
            [polygon.tolist() if hasattr(polygon, "tolist") else polygon for polygon in polygons],
            record["height"],
            record["width"],
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{dataset}: the 'segmentation' of {_place(record, number)} is broken: {error}"
        ) from error


def check_counts(dataset: str, dataset_dicts: Sequence[dict], stats: ClassStats) -> None:
    """Raise ValueError, with their names, for classes that are counted and never loaded.

    Some loaders leave out what they cannot read, and losses and samplers would go on with counts
    of objects that nobody sees.
    """
    loaded = np.zeros(stats.num_classes, np.int64)
    classes = [annotation["category_id"] for _, _, annotation in _things(dataset_dicts)]
    np.add.at(loaded, np.array(classes, np.int64), 1)
    gone = np.flatnonzero((loaded == 0) & (stats.instance_count > 0)).tolist()
    if gone:
        names = [stats.names[c] if stats.names else f"class {c}" for c in gone]
        raise ValueError(
            f"{dataset}: the annotation file counts objects of {', '.join(names[:5])}"
            f"{' and others' if len(names) > 5 else ''}, and none of them is loaded: its loader "
            "leaves out what it cannot read, such as polygons of fewer than 3 points."
        )


def _things(dataset_dicts: Sequence[dict]) -> Iterator[tuple[dict, int, dict]]:
    """Record, number in it from 1, and annotation of every object that is no crowd."""
    for record in dataset_dicts:
        for number, annotation in enumerate(record.get("annotations") or (), 1):
            if not annotation.get("iscrowd", 0):
                yield record, number, annotation


def _place(record: dict, number: int) -> str:
    return f"annotation {number} of image {record.get('image_id')!r} ({record.get('file_name')!r})"
