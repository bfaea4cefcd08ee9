"""What the meta learner has learned, over the iterations: logs, TensorBoard and a picture.

Symbols: K classes; a *rate* is the learner's ``sigmoid(theta_c)``, the weight of a class for the
Meta Reweighter and its sampling rate for the Meta Sampler.

Detectron2 appends a line of json for each record. A kill may cut the last line off, and the resumed
run records once more what came after its checkpoint.

"""

from __future__ import annotations

import io
import json
import os
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from fvcore.common.history_buffer import HistoryBuffer
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from balms_det.data.class_stats import ClassStats, build_class_stats
from balms_det.losses import PairwiseBalance
from balms_det.utils.files import atomic_path
from balms_det.utils.randomness import derived_seed, seed_generators

GROUPS = {"r": ("rare", "#c2410c"), "c": ("common", "#2563eb"), "f": ("frequent", "#15803d")}


class RateHistory(HookBase):
    """Records the rates, logs their mean in every frequency group, and draws them at the end.

    Scalars ``meta_rate/rare`` (``common``, ``frequent``), the picture ``meta_rates`` in TensorBoard
    and, after training, ``meta_rates.png`` in ``output_dir``. The history is in the checkpoint.

    Args:
        class_stats: training counts of the K classes.
        output_dir: where the PNG goes.
        period: iterations between two records.
        label: the picture's title.
    """

    def __init__(self, class_stats: ClassStats, output_dir: str, period: int, label: str):
        self.class_stats = class_stats
        self.output_dir = Path(output_dir)
        self.period = max(1, period)
        self.label = label
        self.iterations: list[int] = []
        self.rates: list[torch.Tensor] = []

    def after_step(self) -> None:
        at_end = self.trainer.iter + 1 == self.trainer.max_iter
        if at_end or self.trainer.iter % self.period == 0:
            self._record()
        if at_end and comm.is_main_process():
            picture = np.asarray(draw_rates(self))
            self.trainer.storage.put_image("meta_rates", picture.transpose(2, 0, 1))

    def _record(self) -> None:
        rates = self.trainer._trainer.meta_step.learner.rates().cpu()
        self.iterations.append(self.trainer.iter)
        self.rates.append(rates)
        groups = np.array(self.class_stats.frequency_groups())
        for key, (name, _) in GROUPS.items():
            if (groups == key).any():
                mean = rates[torch.from_numpy(groups == key)].mean().item()
                self.trainer.storage.put_scalar(f"meta_rate/{name}", mean, smoothing_hint=False)

    def images_drawn(self) -> np.ndarray:
        """(K,) images that a Meta Sampler has drawn for every class, on this rank."""
        return self.trainer._trainer.images_drawn.numpy()

    def after_train(self) -> None:
        if self.iterations and comm.is_main_process():
            with atomic_path(self.output_dir / "meta_rates.png") as path:
                draw_rates(self).save(path, format="PNG")

    def state_dict(self) -> dict:
        return {"iterations": list(self.iterations), "rates": list(self.rates)}

    def load_state_dict(self, state: dict) -> None:
        self.iterations, self.rates = list(state["iterations"]), list(state["rates"])


def build_rate_history(cfg: CfgNode) -> RateHistory:
    """A hundred records over the whole schedule."""
    label = f"{cfg.META.NAME}, {cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME}"
    return RateHistory(build_class_stats(cfg), cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER // 100, label)


def draw_rates(history: RateHistory) -> Image.Image:
    """The last rate of every class against its training images, and the groups' way there."""
    with matplotlib.rc_context(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        drawn = history.images_drawn()
        panels = 3 if drawn.any() else 2
        figure = Figure(figsize=(4.3 * panels, 3.6), layout="constrained")
        axes = figure.subplots(1, panels)
        last = history.rates[-1].numpy()
        _draw_by_count(axes[0], history, last, "learned rate")
        axes[0].axhline(0.5, color="#999999", lw=0.8, ls=":")
        _draw_by_iteration(axes[1], history)
        if drawn.any():
            _draw_by_count(axes[2], history, drawn, "images drawn for the class")
        figure.suptitle(history.label)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
    return Image.open(buffer).convert("RGB")


def _draw_by_count(axes, history: RateHistory, values: np.ndarray, label: str) -> None:
    groups = np.array(history.class_stats.frequency_groups())
    # A class without images is drawn left of those with one.
    counts = np.maximum(history.class_stats.image_count, 0.5)
    for key, (_, color) in GROUPS.items():
        chosen = groups == key
        axes.scatter(counts[chosen], values[chosen], s=14, color=color, alpha=0.7, lw=0)
    axes.set(xscale="log", xlabel="training images of the class", ylabel=label)
    axes.set_title(f"after iteration {history.iterations[-1] + 1}", fontsize=9)


def _draw_by_iteration(axes, history: RateHistory) -> None:
    groups = np.array(history.class_stats.frequency_groups())
    rates = torch.stack(history.rates).numpy()
    for key, (name, color) in GROUPS.items():
        chosen = rates[:, groups == key]
        if chosen.size:
            low, high = np.percentile(chosen, [10, 90], axis=1)
            axes.fill_between(history.iterations, low, high, color=color, alpha=0.15, lw=0)
            label = f"{name} ({chosen.shape[1]} classes)"
            axes.plot(history.iterations, chosen.mean(axis=1), color=color, lw=1.5, label=label)
    axes.axhline(0.5, color="#999999", lw=0.8, ls=":")
    axes.set(xlabel="iteration", ylabel="learned rate")
    axes.set_title("mean of the group, and 10 to 90 % of its classes", fontsize=9)
    axes.legend(frameon=False)


class SeedEveryStep(HookBase):
    """Seeds the global generators, CUDA's included, from the seed, the rank and the iteration.

    What a model draws in a step (the RoIs it samples, dropout) is then the same whether or not the
    run was resumed, or evaluated something in between. Register it first; it fits every trainer.

    Args:
        seed: not negative.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def before_step(self):
        seed_generators(derived_seed("step", self.seed, comm.get_rank(), self.trainer.iter))


# Far more than any writer smooths over.
LENGTH = 1000


class BoundedHistory(HookBase):
    """Makes the event storage keep the last ``LENGTH`` values of every scalar.

    Detectron2's keeps a million of each: 2 to 3 KiB an iteration, half a gigabyte on every rank
    after LVIS's 180,000 iterations.
    """

    def before_train(self) -> None:
        self.trainer.storage._history.default_factory = partial(HistoryBuffer, LENGTH)


def scheduled_losses(model: nn.Module) -> list[PairwiseBalance]:
    """The losses of a model, one a box predictor, that have a ``set_progress``."""
    return [module for module in model.modules() if isinstance(module, PairwiseBalance)]


class LossProgress(HookBase):
    """Before every iteration, tells each of the given losses which share of them is over."""

    def __init__(self, losses: list[PairwiseBalance]):
        self._losses = losses

    def before_step(self) -> None:
        for loss in self._losses:
            loss.set_progress(self.trainer.iter / self.trainer.max_iter)


METRICS = "metrics.json"


def keep_metrics_before(path: Path, iteration: int) -> None:
    """Leave the records of the iterations before ``iteration`` in the file, and nothing else.

    The file stays the same one, as Detectron2 has opened it already to append to it. Records of
    one iteration may lie in front of those of an earlier one, though not across a checkpoint.

    Args:
        path: a metrics file; nothing happens where there is none.
        iteration: the first one of the resumed run.
    """
    if not path.exists():
        return
    kept = 0
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n") or _iteration(line) >= iteration:
                break
            kept += len(line)
    os.truncate(path, kept)


def _iteration(line: bytes) -> float:
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
