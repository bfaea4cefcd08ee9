"""The clock that benchmarks of steps read."""

import time

import torch


def seconds(device: str) -> float:
    """Processor time on a CPU, so that waiting for other processes does not count; on a GPU
    wall-clock time, read when all that was asked of it is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()
