"""Generate icons_lt: plan both splits, render them in parallel, write jsons, then the manifest."""

import dataclasses
import json
import logging
import multiprocessing
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from balms_det.data.icons import font, plan, writer
from balms_det.data.icons.catalog import IconClass, build_catalog, frequency_order
from balms_det.data.icons.render import SPLITS, SplitSpec, render_image
from balms_det.data.icons.style import SceneStyle

GENERATOR_VERSION = 1
_MARKER = ".icons_lt_unfinished"
logger = logging.getLogger(__name__)


def _json_path(root: Path, split: str) -> Path:
    return root / f"icons_lt_{split}.json"


def _finished(root: Path, parameters: dict, force: bool) -> dict | None:
    """The manifest of a complete dataset with these parameters, or None if one is to be made.

    Raises:
        FileExistsError: the folder holds another dataset or foreign files, and not `force`.
    """
    path = root / "manifest.json"
    if path.is_file():
        manifest = json.loads(path.read_text())
        old = manifest.get("parameters", {})
        if old == parameters:
            intact = all(
                _json_path(root, s).is_file()
                and writer.sha256(_json_path(root, s)) == manifest[s]["sha256"]
                and len(list((root / s).glob("*.jpg"))) == manifest[s]["images"]
                for s in SPLITS
            )
            if intact and not force:
                return manifest
            logger.info("%s is damaged or to be replaced; generating it again", root)
        elif not force:
            changed = sorted(k for k in {*old, *parameters} if old.get(k) != parameters.get(k))
            raise FileExistsError(
                f"{root} holds icons_lt made with other parameters ({', '.join(changed)} differ). "
                "Choose another folder, or pass force=True (--force) to replace it."
            )
    elif root.is_dir() and any(root.iterdir()) and not (root / _MARKER).exists() and not force:
        raise FileExistsError(
            f"{root} is not empty and holds no icons_lt. Choose another folder, or pass "
            "force=True (--force) to write into it."
        )
    return None


def _clear(root: Path) -> None:
    """Remove what an earlier run made, manifest first, and mark the folder as unfinished."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "manifest.json").unlink(missing_ok=True)
    (root / _MARKER).touch()
    for split in SPLITS:
        _json_path(root, split).unlink(missing_ok=True)
        (root / split).mkdir(exist_ok=True)
        for file in (root / split).iterdir():
            if re.fullmatch(r"\d{6}\.jpg|\.tmp-.*", file.name):
                file.unlink()


def _worker_count(workers: int | None) -> int:
    if workers is not None:
        return workers
    available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return min(16, len(available) or os.cpu_count() or 1)


def _render_call(spec: SplitSpec, job: tuple[int, list[int]]) -> dict:
    return render_image(spec, *job)


def _render_split(
    spec: SplitSpec,
    images: list[list[int]],
    workers: int,
    progress: Callable[[str, int, int], None] | None,
) -> list[dict]:
    """Records of a split in order of index, whatever the number of processes."""
    records: list[dict] = []

    def collect(results) -> list[dict]:
        for record in results:
            records.append(record)
            if progress is not None:
                progress(spec.split, len(records), len(images))
        return records

    call = partial(_render_call, spec)
    if workers == 1:
        return collect(map(call, enumerate(images)))
    # Forking is far quicker than importing torch again in each process; only Linux forks safely.
    method = "fork" if sys.platform == "linux" else "spawn"
    with multiprocessing.get_context(method).Pool(workers) as pool:
        return collect(pool.imap(call, enumerate(images), chunksize=16))


def _splits(classes: list[IconClass], parameters: dict) -> dict[str, list[list[int]]]:
    """Split -> for each image, the class indices of its instances."""
    index = {icon.name: i for i, icon in enumerate(classes)}
    order = [index[icon.name] for icon in frequency_order(classes)]
    num_classes = len(classes)
    counts = {
        "train": plan.long_tail(num_classes, parameters["num_train"]),
        "val": plan.balanced(num_classes, parameters["num_val"]),
    }
    planned = {}
    for i, split in enumerate(SPLITS):
        # The last 0 keeps plans apart from the images' own generators, which have three numbers.
        rng = np.random.default_rng([parameters["seed"], i, 0, 0])
        images = plan.assign_classes(counts[split], parameters[f"num_{split}"], rng)
        planned[split] = [[order[rank] for rank in ranks] for ranks in images]
    return planned


def _check(num_classes: int, num_train: int, num_val: int, image_size: int, seed: int) -> None:
    for name, value, least in (
        ("num_classes", num_classes, 1),
        ("num_train", num_train, 1),
        ("num_val", num_val, 1),
        ("image_size", image_size, 64),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


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
    progress: Callable[[str, int, int], None] | None = None,
) -> dict:
    """Write the dataset icons_lt, unless it is already there.

    Below `root`: `train/*.jpg`, `val/*.jpg`, `icons_lt_train.json`, `icons_lt_val.json` (LVIS v1)
    and, last of all, `manifest.json`. The same arguments give the same bytes with any number of
    `workers`. For Detectron2's LVIS loader the image root is `root` with a slash at its end.

    Args:
        workers: processes; by default one for each core at hand.
        force: replace what is in the folder.
        progress: called with (split, images done, images in all).

    Returns:
        The manifest: parameters, and for each split its images, instances and json's sha256,
        and `frequency`, the number of rare, common and frequent classes.

    Raises:
        ImportError: the icon font's package is not installed.
        FileExistsError: the folder holds something else, and not `force`.
        ValueError: an argument is out of range.
    """
    _check(num_classes, num_train, num_val, image_size, seed)
    parameters = {
        "generator_version": GENERATOR_VERSION,
        "num_classes": num_classes,
        "num_train": num_train,
        "num_val": num_val,
        "image_size": image_size,
        "seed": seed,
        "style": dataclasses.asdict(style or SceneStyle()),
    }
    root = Path(root)
    manifest = _finished(root, parameters, force)
    if manifest is not None:
        return manifest
    classes = build_catalog(num_classes, font.glyph_codes())
    classes.sort(key=lambda icon: icon.name)
    _clear(root)
    families = sorted({icon.family for icon in classes})
    spec = SplitSpec(
        root=root,
        split="train",
        glyphs=[icon.glyph for icon in classes],
        family=np.array([families.index(icon.family) for icon in classes]),
        image_size=image_size,
        seed=seed,
        style=style or SceneStyle(),
        first_id=1,
    )
    records = {}
    for split, images in _splits(classes, parameters).items():
        first_id = 1 if split == "train" else num_train + 1
        split_spec = dataclasses.replace(spec, split=split, first_id=first_id)
        records[split] = _render_split(split_spec, images, _worker_count(workers), progress)
    return _finish(root, parameters, classes, records)


def _finish(
    root: Path, parameters: dict, classes: list[IconClass], records: dict[str, list[dict]]
) -> dict:
    cats = writer.categories(classes, records["train"])
    manifest: dict = {"parameters": parameters}
    for split, split_records in records.items():
        path = _json_path(root, split)
        writer.write_atomic(path, writer.lvis_json(split_records, cats, f"icons_lt {split}"))
        manifest[split] = {
            "images": len(split_records),
            "instances": sum(len(record["annotations"]) for record in split_records),
            "sha256": writer.sha256(path),
        }
    letters = [cat["frequency"] for cat in cats]
    manifest["frequency"] = {letter: letters.count(letter) for letter in "rcf"}
    (root / _MARKER).unlink()
    writer.write_atomic(root / "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest
