"""Where the instances of scarce classes are, to draw some for copy-paste."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset


class InstancePool:
    """Where the instances of the chosen classes are: (I,) arrays of record and annotation numbers.

    Args:
        records: the training set, searched once.
        classes: contiguous ids of the classes to draw from.
        storage: the same records, where :meth:`draw` reads them. Loader workers share the memory of
            a ``DatasetFromList``; a plain list they slowly copy, page by page.

    Raises:
        ValueError: no class has an instance with a mask.
    """

    def __init__(
        self,
        records: Sequence[dict],
        classes: Sequence[int],
        storage: Sequence[dict] | Dataset | None = None,
    ):
        self.storage = records if storage is None else storage
        wanted = set(classes)
        found = [
            (annotation["category_id"], r, a)
            for r, record in enumerate(records)
            for a, annotation in enumerate(record.get("annotations") or ())
            if annotation["category_id"] in wanted
            and annotation.get("segmentation")
            and not annotation.get("iscrowd", 0)
        ]
        if not found:
            raise ValueError(
                "INPUT.COPY_PASTE found no instance to paste: none of the classes in the frequency "
                "groups of INPUT.COPY_PASTE.GROUPS has an instance with a mask. Choose others."
            )
        category, self._record, self._annotation = np.array(sorted(found), dtype=np.int64).T
        _, self._start, self._count = np.unique(category, return_index=True, return_counts=True)

    def __len__(self) -> int:
        return len(self._record)

    def draw(self) -> tuple[dict, dict]:
        """A record and one of its annotations: first a class, evenly, then one of its instances."""
        group = np.random.randint(len(self._start))
        i = self._start[group] + np.random.randint(self._count[group])
        record = self.storage[int(self._record[i])]
        return record, record["annotations"][int(self._annotation[i])]
