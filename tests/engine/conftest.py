"""A tiny icons_lt and configs for it."""

from pathlib import Path

import pytest

from balms_det.engine import load_cfg
from balms_det.icons import generate_icons

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "quickstart"
SPLITS = ("train", "val")
SMALL = {
    "INPUT.MIN_SIZE_TRAIN": "(96,)",
    "INPUT.MIN_SIZE_TEST": "96",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": "4",
    "SOLVER.WARMUP_ITERS": "1",
    "SOLVER.BASE_LR": "0.001",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.0",
    "SOLVER.CHECKPOINT_PERIOD": "2",
    "TEST.DETECTIONS_PER_IMAGE": "20",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "20",
    "SEED": "3",
}


@pytest.fixture(scope="session")
def icons(tmp_path_factory):
    """Folder of 24 training and 4 validation images with 6 classes."""
    root = tmp_path_factory.mktemp("icons")
    generate_icons(root, num_classes=6, num_train=24, num_val=4, image_size=96, workers=1)
    return root


@pytest.fixture(scope="session")
def small_options(icons):
    """Command-line options that point a quickstart config at ``icons``."""
    rows = [[f"{icons.name}_{s}", f"{icons}/icons_lt_{s}.json", f"{icons}"] for s in SPLITS]
    options = ["DATASETS.FILES", repr(rows), "DATASETS.TRAIN", repr((rows[0][0],))]
    options += ["DATASETS.TEST", repr((rows[1][0],))]
    return options + [word for pair in SMALL.items() for word in pair]


@pytest.fixture(scope="session")
def make_cfg(small_options):
    def make(config, out, *opts):
        return load_cfg(str(CONFIGS / config), [*small_options, "OUTPUT_DIR", str(out), *opts])

    return make
