"""What a box loss costs: forward and backward against PyTorch's own cross-entropy.

    python benchmarks/losses.py [--rois 4096] [--classes 1203] [--rounds 30] [--threads 1]

Every registered loss is timed with its defaults, through ``forward``, checks included; ``[w]`` is
with a weight for every RoI. The baseline has the same logits, so the same K or K + 1 columns:

    cross_entropy   ``F.cross_entropy(logits, labels)``, for losses on K + 1 logits
    bce             ``F.binary_cross_entropy_with_logits(..., reduction="sum") / R``, for losses on
                    K logits; building its dense target, which it cannot do without, is timed too
    bce, no target  the same with the target built beforehand: less than any training step can do

Backward stops at the logits. Time on a CPU is processor time, so that waiting for other processes
does not count; on CUDA it is wall-clock time. All candidates run once a round, in an order that is
drawn anew; the table gives medians over rounds and, as ratio, the median over rounds of
(time / time of the baseline in the same round).
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
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


def candidates(rois: int, num_classes: int, device: str) -> tuple[dict, dict]:
    """Name to call, and name to the name of its baseline."""
    labels = torch.randint(0, num_classes, (rois,), device=device)
    labels[torch.rand(rois, device=device) < 0.75] = num_classes
    weights = torch.rand(rois, device=device)
    wide = torch.randn(rois, num_classes + 1, device=device, requires_grad=True)
    narrow = torch.randn(rois, num_classes, device=device, requires_grad=True)
    target = dense_target(narrow.detach(), labels).contiguous()
    bce = F.binary_cross_entropy_with_logits
    calls = {
        "cross_entropy": step(lambda z: F.cross_entropy(z, labels), wide),
        "bce": step(lambda z: bce(z, dense_target(z, labels), reduction="sum") / rois, narrow),
        "bce, no target": step(lambda z: bce(z, target, reduction="sum") / rois, narrow),
    }
    baseline = {"cross_entropy": "cross_entropy", "bce": "bce", "bce, no target": "bce"}
    stats = long_tail_stats(num_classes)
    for name, _ in BOX_LOSS_REGISTRY:
        loss = build_box_loss(name, num_classes, stats).to(device)
        logits = wide if loss.num_logits > num_classes else narrow
        for key, weight in ((name, None), (f"{name} [w]", weights)):
            calls[key] = step(lambda z, loss=loss, w=weight: loss(z, labels, w), logits)
            baseline[key] = "cross_entropy" if logits is wide else "bce"
    return calls, baseline


def measure(calls: dict[str, Candidate], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every candidate in every round, after two rounds of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    clock = time.process_time if device == "cpu" else time.perf_counter
    for turn in range(rounds + 2):
        random.shuffle(order)
        for name in order:
            start = clock()
            calls[name]()
            if device != "cpu":
                torch.cuda.synchronize()
            if turn >= 2:
                seconds[name].append(clock() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rois", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    calls, baseline = candidates(args.rois, args.classes, args.device)
    seconds = measure(calls, args.rounds, args.device)
    print(
        f"R={args.rois} K={args.classes} {args.device}, {args.threads} thread(s), "
        f"torch {torch.__version__}, {args.rounds} rounds"
    )
    print(f"{'loss':28} {'ms':>8} {'ratio':>6}  baseline")
    for name, times in seconds.items():
        ratios = [t / b for t, b in zip(times, seconds[baseline[name]])]
        milliseconds, ratio = 1e3 * statistics.median(times), statistics.median(ratios)
        print(f"{name:28} {milliseconds:8.2f} {ratio:6.2f}  {baseline[name]}")


if __name__ == "__main__":
    main()
