"""Files and ranks of this machine, asked without Detectron2 where it is not needed."""

from __future__ import annotations

import os
import sys


def local_path(path: str | os.PathLike) -> str:
    """Path on this machine of a file that may be named by an address.

    Args:
        path: a path, or an address such as ``s3://bucket/val.json`` or ``detectron2://name`` that
            Detectron2's ``PathManager`` knows; it is fetched into its cache.

    Raises:
        ModuleNotFoundError: an address, and Detectron2 is not installed.
    """
    path = os.fspath(path)
    if "://" not in path:
        return path
    from detectron2.utils.file_io import PathManager

    return PathManager.get_local_path(path)


def is_first_rank() -> bool:
    """Whether this process is rank 0, or the only one."""
    distributed = sys.modules.get("torch.distributed")  # without it there is one process
    return (
        distributed is None
        or not distributed.is_available()
        or not distributed.is_initialized()
        or distributed.get_rank() == 0
    )
