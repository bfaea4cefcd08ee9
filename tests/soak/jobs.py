"""The commands that are killed, at sizes that take a second or two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from balms_det.icons import generate_icons

SPLITS = ("train", "val")
TRAIN = ("tools/train_net.py", "--resume", "--config-file")
SMALL = {
    "INPUT.MIN_SIZE_TRAIN": "(56, 64)",
    "INPUT.MIN_SIZE_TEST": "64",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": "6",
    "SOLVER.CHECKPOINT_PERIOD": "2",
    "SOLVER.WARMUP_ITERS": "1",
    "SOLVER.BASE_LR": "0.01",
    "MODEL.FPN.OUT_CHANNELS": "16",
    "MODEL.ROI_BOX_HEAD.CONV_DIM": "8",
    "MODEL.ROI_BOX_HEAD.FC_DIM": "16",
    "MODEL.ROI_MASK_HEAD.CONV_DIM": "8",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "10",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "0.0",
    "TEST.DETECTIONS_PER_IMAGE": "5",
    "SEED": "3",
}


def _loss(name: str) -> tuple[str, str]:
    return "MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME", name


# It has an output of its own, so what reads stage 1 without training it on must name it too.
STAGE1_LOSS = _loss("PCBSeesawLoss")


@dataclass(frozen=True)
class Job:
    """A command and what it starts from.

    Attributes:
        command: from the shared folder (data, and the folders of uninterrupted jobs) and the folder
            of this run to a script of ``tools/`` and its arguments.
        needs: the job whose uninterrupted run it reads; empty for none.
    """

    command: Callable[[Path, Path], list[str]]
    needs: str = ""


def make_data(shared: Path) -> None:
    """Twelve training and four validation scenes with six classes."""
    generate_icons(
        shared / "data", num_classes=6, num_train=12, num_val=4, image_size=64, workers=1
    )


def options(data: Path, folder: Path, test: bool) -> list[str]:
    """What points a quickstart config at ``data`` and at a folder for the run."""
    rows = [[f"soak_{s}", f"{data}/icons_lt_{s}.json", f"{data}"] for s in SPLITS]
    words = ["DATASETS.FILES", repr(rows), "DATASETS.TRAIN", "('soak_train',)"]
    words += ["DATASETS.TEST", "('soak_val',)" if test else "()"]
    return [*words, *(word for pair in SMALL.items() for word in pair), "OUTPUT_DIR", str(folder)]


def _training(config: str, *more: str, test: bool = False) -> Callable[[Path, Path], list[str]]:
    def command(shared: Path, folder: Path) -> list[str]:
        words = [*TRAIN, f"configs/quickstart/{config}.yaml"]
        words += options(shared / "data", folder, test)
        if not config.startswith("stage1"):
            words += ["MODEL.WEIGHTS", str(shared / "stage1" / "model_final.pth")]
        return [*words, *more]

    return command


def _evaluation(shared: Path, folder: Path) -> list[str]:
    script, *words = _training("stage2_softmax", *STAGE1_LOSS, test=True)(shared, folder)
    return [script, "--eval-only", *words]


def _features(shared: Path, folder: Path) -> list[str]:
    words = ["tools/cache_features.py", "--config-file", "configs/quickstart/stage2_softmax.yaml"]
    words += ["--out", str(folder), "--views", "2", "--shard-images", "5", "--background", "6"]
    words += [*options(shared / "data", folder, test=False), *STAGE1_LOSS]
    return [*words, "MODEL.WEIGHTS", str(shared / "stage1" / "model_final.pth")]


def _icons(shared: Path, folder: Path) -> list[str]:
    sizes = {"--classes": 6, "--train": 40, "--val": 10, "--image-size": 64, "--workers": 1}
    words = [str(word) for pair in sizes.items() for word in pair]
    return ["tools/make_icons.py", "--out", str(folder), *words]


JOBS = {
    # Losses with running state, pasted instances, repeats of images.
    "stage1": Job(
        _training(
            "stage1",
            *(*STAGE1_LOSS, "MODEL.ROI_BOX_HEAD.CLS_LOSS.ARGS.START_EPOCH", "8"),
            *("DATALOADER.REPEAT_THRESHOLD", "0.5", "INPUT.COPY_PASTE.ENABLED", "True"),
            *("INPUT.MASK_FORMAT", "bitmask"),
        )
    ),
    "stage2": Job(_training("stage2_softmax", *_loss("LOCELoss")), needs="stage1"),
    "reweighter": Job(_training("stage2_meta_reweighter"), needs="stage1"),
    "sampler": Job(
        _training(
            "stage2_meta_sampler",
            *("META.SAMPLER_PERIOD", "2", "META.LR", "0.5", "META.IMS_PER_BATCH", "3"),
            *("DATALOADER.NUM_WORKERS", "2"),
        ),
        needs="stage1",
    ),
    "evaluation": Job(_evaluation, needs="stage1"),
    "icons": Job(_icons),
    "features": Job(_features, needs="stage1"),
}
