"""Files and ranks of this machine, asked without Detectron2 where it is not needed."""

from __future__ import annotations

import http.client
import os
import sys
from urllib.parse import urlparse


def local_path(path: str | os.PathLike) -> str:
    """Path on this machine of a file that may be named by an address.

    Args:
        path: a path, or an address such as ``s3://bucket/val.json`` or ``detectron2://name`` that
            Detectron2's ``PathManager`` knows; it is fetched into its cache.

    Detectron2's own handlers fetch a file once, with a lock against other processes.

    Raises:
        FileNotFoundError: an address whose file cannot be fetched. Where a copy can be put by hand,
            the message says from where and to where.
        ModuleNotFoundError: an address, and Detectron2 is not installed.
    """
    path = os.fspath(path)
    if not is_address(path):
        return path
    from detectron2.utils.file_io import PathManager

    try:
        return PathManager.get_local_path(path)
    # The last two: it is not in Detectron2's catalog.
    except (OSError, http.client.HTTPException, KeyError, RuntimeError) as error:
        reason = str(error) or type(error).__name__
        raise FileNotFoundError(
            f"{path!r} cannot be fetched ({reason}).{_by_hand(path)}"
        ) from error


def found_path(path: str | os.PathLike) -> str | None:
    """:func:`local_path` of a file that is there; None where it is not, or cannot be fetched."""
    try:
        found = local_path(path)
    except FileNotFoundError:
        return None
    return found if os.path.isfile(found) else None


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path is an address, with a scheme."""
    return "://" in os.fspath(path)


def may_be_folder(path: str | os.PathLike) -> bool:
    """Whether there is a folder. Of addresses only some handlers know; what may be one is one."""
    if not is_address(path):
        return os.path.isdir(path)
    from detectron2.utils.file_io import PathManager

    try:
        return PathManager.isdir(os.fspath(path))
    except NotImplementedError:
        return True


def _by_hand(address: str) -> str:
    """From where and to where a file can be copied, for the addresses that a cache serves."""
    from detectron2.checkpoint.catalog import ModelCatalog, ModelCatalogHandler
    from detectron2.utils.file_io import Detectron2Handler
    from iopath.common.file_io import get_cache_dir

    url = address
    if address.startswith(ModelCatalogHandler.PREFIX):
        try:
            url = ModelCatalog.get(address.removeprefix(ModelCatalogHandler.PREFIX))
        except (KeyError, RuntimeError):
            return " Detectron2's catalog does not list it."
    elif address.startswith(Detectron2Handler.PREFIX):
        name = address.removeprefix(Detectron2Handler.PREFIX)
        url = Detectron2Handler.S3_DETECTRON2_PREFIX + name
    if not url.startswith(("https://", "http://", "ftp://")):
        return ""
    folder = os.path.dirname(urlparse(url).path.lstrip("/"))
    cached = os.path.join(get_cache_dir(), folder, url.split("/")[-1])
    return f" Without a network, fetch {url} elsewhere and put it at {cached}"


def is_first_rank() -> bool:
    """Whether this process is rank 0, or the only one."""
    distributed = sys.modules.get("torch.distributed")  # without it there is one process
    return (
        distributed is None
        or not distributed.is_available()
        or not distributed.is_initialized()
        or distributed.get_rank() == 0
    )
