"""The guard ``paths`` for datasets that Detectron2 loads itself, such as ``lvis_v1_train``.

Their loaders join the image root and whatever the annotation file says. Here a registered loader is
wrapped, so that training, evaluation and everything else that asks the catalog are guarded alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import PurePath

from detectron2.data import DatasetCatalog, MetadataCatalog

from balms_det.data.image_files import leaves_root
from balms_det.trust import insist


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
    for name in names:
        load = DatasetCatalog.data.get(name)
        if load is not None and not isinstance(load, GuardedLoader):
            DatasetCatalog.data[name] = GuardedLoader(name, load)
