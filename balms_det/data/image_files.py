"""Where the images of an annotation file lie under the image root.

COCO-format files give the path in ``file_name``. LVIS v1 gives only a ``coco_url``, whose last two
parts (``train2017/000000000009.jpg``) are the path under the COCO folder; LVIS v0.5 has names such
as ``COCO_val2014_000000000009.jpg`` for images that are stored as ``000000000009.jpg``.

Annotation files come from other people, and a name in them must not lead out of the image root:
absolute names and ``..`` are refused (guard ``paths`` of :mod:`balms_det.trust`). Links are
followed: an annotation file cannot make one, and ``train2017`` is often a link to another disk. So
look for links in a folder that you have unpacked from somebody's archive.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from balms_det.trust import insist

Layout = Callable[[dict], "str | None"]

# Images looked for on disk before a dataset is accepted.
_PROBES = 8


def _split_and_name(image: dict) -> str | None:
    url = image.get("coco_url")
    return "/".join(url.split("/")[-2:]) if url else None


def _plain(image: dict) -> str | None:
    return image.get("file_name")


def _without_coco_prefix(image: dict) -> str | None:
    name = image.get("file_name") or ""
    return name.rsplit("_", 1)[-1] if name.startswith("COCO_") else None


def _url_name(image: dict) -> str | None:
    url = image.get("coco_url")
    return url.rsplit("/", 1)[-1] if url else None


LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "coco": (_plain,),
    "lvis": (_split_and_name, _plain, _without_coco_prefix, _url_name),
}


def locate_images(
    dataset: str, images: Sequence[dict], image_root: str, file_format: str
) -> list[str]:
    """Path of every image. A few of them are looked for on disk, to choose the layout.

    Raises:
        FileNotFoundError: these few are under the root in no known layout.
        UntrustedFileError: a file name leaves the image root.
        ValueError: an image has no file name.
    """
    probes = images[:: max(1, len(images) // _PROBES)]
    tried = []
    for layout in LAYOUTS[file_format]:
        if any(layout(image) is None for image in probes):
            continue
        paths = [_inside(dataset, image_root, layout(image), image) for image in probes]
        missing = [path for path in paths if not os.path.isfile(path)]
        if not missing:
            return [_inside(dataset, image_root, layout(image), image) for image in images]
        tried.append(missing[0])
    if not tried:
        raise ValueError(f"Dataset '{dataset}': image {probes[0]['id']!r} has no 'file_name'.")
    raise FileNotFoundError(
        f"Dataset '{dataset}': no image file {' or '.join(tried)}. "
        f"Is '{image_root}' the image root?"
    )


def _inside(dataset: str, image_root: str, name: str | None, image: dict) -> str:
    if not name:
        raise ValueError(f"Dataset '{dataset}': image {image['id']!r} has no 'file_name'.")
    if leaves_root(name):
        insist(
            "paths",
            f"Dataset '{dataset}': the file name '{name}' of image {image['id']!r} leaves the "
            f"image root. It must be relative to '{image_root}', without '..'",
        )
    return os.path.join(image_root, name)


def leaves_root(name: str) -> bool:
    """Whether a file name is absolute or goes up; a backslash separates as well, as on Windows."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts
