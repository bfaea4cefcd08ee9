"""Modules by the names that version 0.1 documented: they import what took their place."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import warnings

MOVED = {
    "balms_det.data.icons": "balms_det.icons",
    "balms_det.engine.calibrate": "balms_det.workflows.calibrate",
    "balms_det.engine.classifier": "balms_det.classifier",
    "balms_det.engine.demo": "balms_det.workflows.predict",
    "balms_det.engine.feature_cache": "balms_det.features",
    "balms_det.engine.imprint": "balms_det.workflows.imprint",
    "balms_det.engine.setup": "balms_det.engine.launch",
    "balms_det.evaluation.lvis_eval": "balms_det.evaluation.lvis",
    "balms_det.evaluation.report": "balms_det.report",
    "balms_det.files": "balms_det.utils.files",
    "balms_det.losses.base": "balms_det.losses.core.base",
    "balms_det.losses.roi_context": "balms_det.losses.core.context",
    "balms_det.losses.sigmoid": "balms_det.losses.core.families",
    "balms_det.losses.softmax": "balms_det.losses.core.families",
    "balms_det.trust": "balms_det.utils.trust",
}


class OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finder of the modules of :data:`MOVED`; both names are one module."""

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name in MOVED else None

    def exec_module(self, module: types.ModuleType) -> None:
        old = module.__name__
        message = f"{old} is now {MOVED[old]}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(MOVED[old])  # import takes it from there


def admit_old_names() -> None:
    """Let the old names be imported; once is enough."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
