"""Where the images of an annotation file lie under the image root.

COCO-format files give the path in ``file_name``. LVIS v1 gives only a ``coco_url``, whose last two
parts (``train2017/000000000009.jpg``) are the path under the COCO folder; LVIS v0.5 has names such
as ``COCO_val2014_000000000009.jpg`` for images that are stored as ``000000000009.jpg``.

Annotation files come from other people, and a name in them must not lead out of the image root:
absolute names and ``..`` are refused (guard ``paths`` of :mod:`balms_det.utils.trust`). Links are
followed: an annotation file cannot make one, and ``train2017`` is often a link to another disk. So
look for links in a folder that you have unpacked from somebody's archive.

Their loaders join the image root and whatever the annotation file says. Here a registered loader is
wrapped, so that training, evaluation and everything else that asks the catalog are guarded alike.

"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath, PurePosixPath

from balms_det.utils.local import local_path
from balms_det.utils.trust import insist

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
        missing = [path for path in paths if not _is_there(path)]
        if not missing:
            return [_inside(dataset, image_root, layout(image), image) for image in images]
        tried.append(missing[0])
    if not tried:
        raise ValueError(f"Dataset '{dataset}': image {probes[0]['id']!r} has no 'file_name'.")
    raise FileNotFoundError(
        f"Dataset '{dataset}': no image file {' or '.join(tried)}. "
        f"Is '{image_root}' the image root?"
    )


def _is_there(path: str) -> bool:
    try:
        return os.path.isfile(local_path(path))
    except OSError:
        return False  # an address that cannot be fetched


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


@contextmanager
def image_errors_name(record: dict) -> Iterator[None]:
    """Turn errors of reading a dataset dict's image into ones that name it.

    Raises:
        FileNotFoundError: the file is not there.
        OSError: it is there and cannot be read as an image.
    """
    path = record.get("file_name")
    image = f"{path!r} (image_id {record.get('image_id')!r})"
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The image {image} does not exist. Check the image root of the dataset (the third "
            "entry of its row in DATASETS.FILES, or $DETECTRON2_DATASETS) and that all images are "
            "in place."
        ) from error
    except OSError as error:
        raise OSError(
            f"The image {image} cannot be read: {error}. Check that the file is whole, for example "
            "by opening it, and put it in place again."
        ) from error


class GuardedLoader:
    """A registered dataset's loader whose records are under its image root."""

    def __init__(self, name: str, load: Callable[[], list[dict]]):
        self.name = name
        self.load = load

    def __call__(self) -> list[dict]:
        """The dataset dicts.

        Raises:
            UntrustedFileError: a file name leaves the image root that the metadata name.
        """
        records = self.load()
        from detectron2.data import MetadataCatalog

        metadata = MetadataCatalog.get(self.name)
        root, json_file = metadata.get("image_root"), metadata.get("json_file")
        if root and json_file:  # otherwise it is Python that says where the images are
            self._check(records, root, json_file)
        return records

    def _check(self, records: list[dict], root: str, json_file: str) -> None:
        for record in records:
            path = record.get("file_name")
            if isinstance(path, str) and not _is_under(path, root):
                insist(
                    "paths",
                    f"Dataset '{self.name}': {json_file} names the image '{path}', which is not "
                    f"under the image root '{root}'",
                )


def _is_under(path: str, root: str) -> bool:
    start = os.path.join(root, "")
    if path.startswith(start):  # nearly always: the root was put before the name as it is
        return not leaves_root(path[len(start) :].lstrip("/"))
    # Only "." is taken out of the path: where "b" is a link, "b/.." is not where it seems to be.
    whole, root = PurePath(os.getcwd(), path), os.path.abspath(root)
    return whole.is_relative_to(root) and ".." not in whole.relative_to(root).parts


def guard_datasets(names: Iterable[str]) -> None:
    """Wrap the loaders of registered datasets; once is enough, and an unknown name is left out."""
    from detectron2.data import DatasetCatalog

    for name in names:
        load = DatasetCatalog.data.get(name)
        if load is not None and not isinstance(load, GuardedLoader):
            DatasetCatalog.data[name] = GuardedLoader(name, load)
