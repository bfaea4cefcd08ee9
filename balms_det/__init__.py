"""balms_det: long-tailed instance segmentation for Detectron2.

Importing the package fills Detectron2's registries (ROI heads) and its own (losses, samplers) where
Detectron2 is installed. Where it is not, the rooms that do without it can be imported one by one:
``balms_det.losses`` and ``balms_det.meta`` need torch, ``balms_det.annotations``,
``balms_det.evaluation``, ``balms_det.report`` and ``balms_det.data.class_stats`` numpy.
"""

from typing import Any

from balms_det.utils.old_names import admit_old_names

__version__ = "0.1.0"

__all__ = ["__version__", "add_balms_config", "losses", "modeling"]

admit_old_names()

try:
    import detectron2  # noqa: F401
    import torch  # noqa: F401  Detectron2 needs it, and says so less clearly
except ModuleNotFoundError as error:
    if error.name not in ("detectron2", "torch"):
        raise
    _missing = error.name
else:
    _missing = None
    from balms_det import losses, modeling
    from balms_det.config import add_balms_config

_INSTALL = {
    "torch": "Install it for your machine, for example:\n    pip install torch torchvision",
    "detectron2": (
        "Install it:\n"
        "    pip install 'git+https://github.com/facebookresearch/detectron2.git'\n"
        "or, from a checkout of balms_det, let it set up a wheel that works on CPU and CUDA:\n"
        "    python tools/setup_env.py --here"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in ("add_balms_config", "modeling"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise ModuleNotFoundError(
        f"balms_det.{name} extends Detectron2, and {_missing} is not installed in this "
        f"environment. {_INSTALL[_missing]}",
        name=_missing,
    )
