"""What a box loss costs: forward and backward against PyTorch's own cross-entropy.

    python benchmarks/losses.py [--rois 4096] [--classes 1203] [--rounds 30] [--weighted]
                                [--only NAME ...] [--progress 1.0]

Every registered loss is timed with its defaults, in training mode, through ``forward``: checks and
the running state are included; ``--weighted`` adds ``[w]``, with a weight for every RoI. There are
two baselines:

    CE    ``F.cross_entropy(logits, labels)`` on K + 1 logits
    BCE   ``F.binary_cross_entropy_with_logits(..., reduction="sum") / R`` on K logits; building its
          dense target, which it cannot do without, is timed too

Backward stops at the logits. Time on a CPU is processor time, so that waiting for other processes
does not count; on CUDA it is wall-clock time. All candidates run once a round, in an order that is
drawn anew; the table gives the minimum over rounds, as other processes only ever add to a time, and
ratios of minima. ``--progress`` is how far a training is over, which some losses ask for.
"""

import argparse
import random
from collections.abc import Callable
from types import SimpleNamespace

import torch
from timing import seconds
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses import BOX_LOSS_REGISTRY, build_box_loss

Candidate = Callable[[], None]


def long_tail_stats(num_classes: int) -> SimpleNamespace:
    """Class statistics that fall from half of the images to a single one by a power law."""
    num_images = 100_000
    exponent = torch.linspace(1, 0, num_classes, dtype=torch.float64)
    images = ((num_images / 2) ** exponent).round()
    return SimpleNamespace(image_count=images, instance_count=3 * images, num_images=num_images)


def dense_target(logits: Tensor, labels: Tensor) -> Tensor:
    """One-hot labels, (R, K), zero in background rows."""
    target = logits.new_zeros(len(logits), logits.shape[1] + 1)
    target.scatter_(1, labels.unsqueeze(1), 1.0)
    return target[:, :-1]


def step(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Candidate:
    """A call of forward and backward; the gradient is dropped, not accumulated."""

    def run() -> None:
        torch.autograd.grad(loss(logits), logits)

    return run


def candidates(
    rois: int, num_classes: int, device: str, weighted: bool, progress: float, names: list[str]
) -> dict[str, Candidate]:
    """Name to call; the baselines are "CE" and "BCE"."""
    labels = torch.randint(0, num_classes, (rois,), device=device)
    labels[torch.rand(rois, device=device) < 0.75] = num_classes

    def logits(columns: int) -> Tensor:
        return torch.randn(rois, columns, device=device, requires_grad=True)

    bce = F.binary_cross_entropy_with_logits
    narrow, wide = logits(num_classes), logits(num_classes + 1)
    calls = {
        "CE": step(lambda z: F.cross_entropy(z, labels), wide),
        "BCE": step(lambda z: bce(z, dense_target(z, labels), reduction="sum") / rois, narrow),
    }
    same_width = {num_classes: narrow, num_classes + 1: wide}
    stats = long_tail_stats(num_classes)
    weights = torch.rand(rois, device=device)
    for name in names:
        loss = build_box_loss(name, num_classes, stats).to(device)
        if hasattr(loss, "set_progress"):
            loss.set_progress(progress)
        z = same_width.setdefault(loss.num_logits, logits(loss.num_logits))
        calls[name] = step(lambda z, loss=loss: loss(z, labels), z)
        if weighted:
            calls[f"{name} [w]"] = step(lambda z, loss=loss: loss(z, labels, weights), z)
    return calls


def measure(calls: dict[str, Candidate], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every candidate in every round, after two rounds of warming up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for turn in range(rounds + 2):
        random.shuffle(order)
        for name in order:
            start = seconds(device)
            calls[name]()
            taken = seconds(device) - start
            if turn >= 2:
                times[name].append(taken)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rois", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weighted", action="store_true")
    parser.add_argument("--progress", type=float, default=1.0)
    every = [name for name, _ in BOX_LOSS_REGISTRY]
    parser.add_argument("--only", nargs="+", default=every, choices=every, metavar="NAME")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    calls = candidates(
        args.rois, args.classes, args.device, args.weighted, args.progress, args.only
    )
    measured = measure(calls, args.rounds, args.device)
    print(
        f"R={args.rois} K={args.classes} {args.device}, {args.threads} thread(s), "
        f"torch {torch.__version__}, {args.rounds} rounds"
    )
    print(f"{'loss':28} {'ms':>8} {'/ CE':>6} {'/ BCE':>6}")
    best = {name: min(times) for name, times in measured.items()}
    for name, time_taken in best.items():
        ratios = " ".join(f"{time_taken / best[baseline]:6.2f}" for baseline in ("CE", "BCE"))
        print(f"{name:28} {1e3 * time_taken:8.2f} {ratios}")


if __name__ == "__main__":
    main()
