"""balms_det: long-tailed instance segmentation for Detectron2.

Importing the package fills Detectron2's registries (ROI heads) and its own (losses, samplers).
"""

__version__ = "0.1.0"

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise ModuleNotFoundError(
        "balms_det extends Detectron2, which is not installed in this environment. Install it:\n"
        "    pip install 'git+https://github.com/facebookresearch/detectron2.git'\n"
        "or, from a checkout of balms_det, let it set up a wheel that works on CPU and CUDA:\n"
        "    python tools/setup_env.py --here",
        name="detectron2",
    ) from error

from balms_det import losses, modeling
from balms_det.config import add_balms_config

__all__ = ["__version__", "add_balms_config", "losses", "modeling"]
