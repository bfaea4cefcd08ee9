"""Predict on images, folders and videos, and write what was found as pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.structures import Instances

from balms_det.annotations.image_reader import read_image
from balms_det.data.class_stats import build_class_stats, dataset_class_names
from balms_det.utils.files import atomic_path, write_atomically
from balms_det.utils.local import local_path
from balms_det.workflows.draw import draw_detections, frequency_metadata

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
Predictor = Callable[[np.ndarray], dict[str, Instances]]


def training_metadata(cfg: CfgNode) -> Metadata:
    """Names and frequency groups of the training classes, for drawing detections.

    Raises:
        ValueError: ``DATASETS`` names no data to count; see ``build_class_stats``.
    """
    stats = build_class_stats(cfg)
    groups, names = stats.frequency_groups(), stats.names
    if cfg.DATASETS.TRAIN:
        names = dataset_class_names(cfg.DATASETS.TRAIN[0])
    return frequency_metadata(names or [f"class {i}" for i in range(len(groups))], groups)


def image_files(paths: list[str]) -> list[Path]:
    """Image files as given, and those directly in the folders that are given, sorted.

    Raises:
        FileNotFoundError: there is nothing at a path, or no image in a folder.
    """
    files = []
    for path in map(Path, map(local_path, paths)):
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise FileNotFoundError(f"no image ({', '.join(sorted(SUFFIXES))}) in {path}")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"there is no image or folder {path}")
    return files


def draw_images(
    files: list[Path], out: Path, predictor: Predictor, metadata: Metadata, scale: float = 1.0
) -> Iterator[tuple[Path, Instances]]:
    """Predict on images and write each, drawn on, to the folder ``out`` under its name as PNG.

    Args:
        predictor: a ``DefaultPredictor`` or one like it: a BGR image to ``{"instances": ...}``.
        metadata: of :func:`training_metadata`.
        scale: size of the pictures over that of the images.

    Yields:
        Each written file and its detections.

    Raises:
        ValueError: a file is not an image, or two files would be written under one name.
    """
    for file, target in zip(files, _targets(files, out)):
        try:
            image = read_image(file)
        except OSError as error:
            raise ValueError(f"{file} cannot be read as an image: {error}") from error
        instances = predictor(image)["instances"]
        picture = draw_detections(image[:, :, ::-1], instances, metadata, scale)
        # Not cv2.imwrite, which says that it has written what a full disk cut off.
        write_atomically(target, cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes())
        yield target, instances


def _targets(files: list[Path], out: Path) -> list[Path]:
    """``out/name.png`` for each file, with the folder's name where two files would share it."""
    stems = [file.stem for file in files]
    names = [
        f"{file.parent.name}_{file.name}".replace(".", "_")
        if stems.count(file.stem) > 1
        else file.stem
        for file in files
    ]
    for number, name in enumerate(names):
        if name in names[:number]:
            first = files[names.index(name)]
            raise ValueError(f"{first} and {files[number]} have the same name: predict on one only")
    return [out / f"{name}.png" for name in names]


def draw_video(
    video: str | os.PathLike, out: Path, predictor: Predictor, metadata: Metadata
) -> Iterator[Instances]:
    """Predict on every frame of a video and write the frames, drawn on, as the MPEG-4 ``out``.

    Args:
        video: a file that OpenCV reads.
        out: the ``.mp4`` file to write; it appears when the last frame was drawn.
        predictor, metadata: as in :func:`draw_images`.

    Yields:
        The detections of each frame.

    Raises:
        ValueError: ``video`` cannot be opened or has no frame, or ``out`` is not an mp4.
    """
    if Path(out).suffix.lower() != ".mp4":
        raise ValueError(f"a video is written as .mp4, and {out} has another ending")
    source = cv2.VideoCapture(local_path(video))
    rate = source.get(cv2.CAP_PROP_FPS) or 25.0
    writer, frames = None, 0
    with atomic_path(out) as part:
        try:
            while (frame := source.read()[1]) is not None:
                instances = predictor(frame)["instances"]
                drawn = draw_detections(frame[:, :, ::-1], instances, metadata)[:, :, ::-1]
                if writer is None:
                    size = drawn.shape[1::-1]
                    writer = cv2.VideoWriter(str(part), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
                writer.write(np.ascontiguousarray(drawn))
                frames += 1
                yield instances
        finally:
            source.release()
            if writer is not None:
                writer.release()
        if writer is None:
            raise ValueError(f"{video} is not a video that OpenCV can read, or has no frame")
        _check_length(part, frames, out)


def _check_length(part: Path, frames: int, out: Path) -> None:
    """Whether a video is whole, which OpenCV's writer does not say.

    Raises:
        OSError: it is not.
    """
    written = cv2.VideoCapture(str(part))
    found = int(written.get(cv2.CAP_PROP_FRAME_COUNT))
    written.release()
    if found != frames:
        raise OSError(f"{out}: {found} of {frames} frames could be written; is the disk full?")
