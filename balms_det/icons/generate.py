"""Generate icons_lt: plan both splits, render them in parallel, write jsons, then the manifest."""

import dataclasses
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from balms_det.icons import files as folder
from balms_det.icons import files as writer
from balms_det.icons import font, plan
from balms_det.icons.catalog import IconClass, build_catalog, frequency_order
from balms_det.icons.scene import SplitSpec, render_image
from balms_det.icons.style import SceneStyle
from balms_det.utils.children import end_worker_with_parent
from balms_det.utils.files import write_atomically

GENERATOR_VERSION = 1  # to be raised whenever the same parameters give other bytes
_LEAST = {"num_classes": 1, "num_train": 1, "num_val": 1, "image_size": 64, "seed": 0}

Progress = Callable[[str, int, int], None]


def generate_icons(
    root: str | os.PathLike,
    *,
    num_classes: int = 60,
    num_train: int = 3000,
    num_val: int = 500,
    image_size: int = 192,
    seed: int = 0,
    style: SceneStyle | None = None,
    workers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict:
    """Write the dataset icons_lt below `root`, unless it is already there.

    The same arguments give the same bytes with any number of `workers` (processes; by default
    one for each core). `force` replaces what the folder holds. `progress` is called with split,
    images done and images in all. Detectron2's LVIS loader wants `f"{root}/"` as image root.

    Returns:
        The manifest: parameters; images, instances and json's sha256 for each split; and the
        number of classes in each frequency group.

    Raises:
        ImportError: the icon font's package is not installed.
        FileExistsError: the folder holds something else, and not `force`.
        ValueError: an argument is out of range.
    """
    style = style or SceneStyle()
    parameters = {"num_classes": num_classes, "num_train": num_train, "num_val": num_val}
    parameters |= {"image_size": image_size, "seed": seed}
    _check(parameters, workers)
    parameters |= {"style": dataclasses.asdict(style), "generator_version": GENERATOR_VERSION}
    root = Path(root)
    manifest = None if force else folder.find_complete(root, parameters)
    if manifest is None:
        manifest = _generate(root, parameters, style, workers, progress)
    return manifest


def _check(parameters: dict, workers: int | None) -> None:
    for name, least in _LEAST.items():
        if parameters[name] < least:
            raise ValueError(f"{name} must be at least {least}, got {parameters[name]}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")


def _generate(
    root: Path,
    parameters: dict,
    style: SceneStyle,
    workers: int | None,
    progress: Progress | None,
) -> dict:
    catalog = build_catalog(parameters["num_classes"], font.glyph_codes())
    # Ids in order of name, as in LVIS: an id then says nothing about family or frequency.
    classes = sorted(catalog, key=lambda icon: icon.name)
    by_frequency = [classes.index(icon) for icon in frequency_order(catalog)]
    folder.clear(root)
    families = sorted({icon.family for icon in classes})
    records = {}
    for split, images in _plan(by_frequency, parameters).items():
        spec = SplitSpec(
            root=root,
            split=split,
            looks=[(icon.glyph, families.index(icon.family) / len(families)) for icon in classes],
            family=np.array([families.index(icon.family) for icon in classes]),
            image_size=parameters["image_size"],
            seed=parameters["seed"],
            style=style,
            first_id=1 if split == "train" else parameters["num_train"] + 1,
        )
        records[split] = []
        for record in _render_all(spec, images, workers):
            records[split].append(record)
            if progress is not None:
                progress(split, len(records[split]), len(images))
    return _write_jsons(root, parameters, classes, records)


def _plan(order: list[int], parameters: dict) -> dict[str, list[list[int]]]:
    """Split -> for each image, the class indices of its instances; `order`: most frequent first."""
    planned = {}
    for i, (split, image_counts) in enumerate((("train", plan.long_tail), ("val", plan.balanced))):
        num_images = parameters[f"num_{split}"]
        # Four numbers seed a plan, three an image: the two never share a stream.
        rng = np.random.default_rng([parameters["seed"], i, 0, 1])
        images = plan.assign_classes(image_counts(len(order), num_images), num_images, rng)
        planned[split] = [[order[rank] for rank in ranks] for ranks in images]
    return planned


def _render_job(spec: SplitSpec, job: tuple[int, list[int]]) -> dict:
    return render_image(spec, *job)


def _render_all(spec: SplitSpec, images: list[list[int]], workers: int | None) -> Iterator[dict]:
    """Records of a split, in order whatever the number of processes."""
    if workers is None:
        affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
        workers = min(16, len(affinity) or os.cpu_count() or 1)
    render = partial(_render_job, spec)
    if workers == 1:
        yield from map(render, enumerate(images))
        return
    # A forked child need not import torch again; forking is safe on Linux only.
    method = "fork" if sys.platform == "linux" else "spawn"
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(workers, context, initializer=end_worker_with_parent) as pool:
        yield from pool.map(render, enumerate(images), chunksize=16)


def _write_jsons(
    root: Path, parameters: dict, classes: list[IconClass], records: dict[str, list[dict]]
) -> dict:
    categories = writer.categories(classes, records["train"])
    manifest: dict = {"parameters": parameters}
    for split, split_records in records.items():
        content = writer.lvis_json(split_records, categories, f"icons_lt {split}")
        write_atomically(folder.json_path(root, split), content)
        manifest[split] = {
            "images": len(split_records),
            "instances": sum(len(record["annotations"]) for record in split_records),
            "sha256": writer.sha256(folder.json_path(root, split)),
        }
    letters = [category["frequency"] for category in categories]
    manifest["frequency"] = {letter: letters.count(letter) for letter in "rcf"}
    folder.complete(root, manifest)
    return manifest
