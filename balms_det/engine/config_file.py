"""Reading a YAML config, and the files of its ``_BASE_``, without building Python objects."""

from __future__ import annotations

import yaml
from detectron2.config import CfgNode

from balms_det.trust import insist


def merge_config_file(cfg: CfgNode, path: str) -> None:
    """``cfg.merge_from_file(path)`` of Detectron2, which by itself does what a YAML tag says.

    Raises:
        UntrustedFileError: it, or a file of its ``_BASE_``, has a tag such as
            ``!!python/object/apply``.
    """
    try:
        cfg.merge_from_file(path, allow_unsafe=False)
        return
    except yaml.constructor.ConstructorError as error:
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else path
        found = f"{where}: {error.problem}"
    insist("yaml", f"{found}, so this is no config of plain values")
    cfg.merge_from_file(path, allow_unsafe=True)
