#!/usr/bin/env python3
"""Cost of the data path at the size of LVIS v1 train, as ratios measured in one run.

    python benchmarks/data_path.py [--folder FOLDER]

Generates the annotation file (about 450 MB, in a temporary folder unless one is given), then takes
every measurement in a process of its own. Peak memory is that of the whole process, imports
included. Exits with 1 if a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Measured only by this process: the rest is imported where it is measured.
MEBIBYTE = 2**20


def measure_lvis_package(path: str) -> dict:
    from lvis import LVIS

    return _timed(lambda: LVIS(path))


def measure_class_stats(path: str) -> dict:
    from balms_det.data import ClassStats

    return _timed(lambda: ClassStats.from_file(path))


def measure_loader(path: str) -> dict:
    """Load the dicts, compute repeat factors, and read every image in two loader workers."""
    from detectron2.data import DatasetFromList

    from balms_det.annotations.instances import load_instances

    result, dicts = {}, None

    def load():
        nonlocal dicts
        dicts = load_instances("lvis_sized", path, os.path.dirname(path))

    result["load_seconds"] = _timed(load)["seconds"]
    result |= _sampler_seconds(dicts)
    records = DatasetFromList(dicts, copy=False)
    del dicts
    return result | {"worker_growth_mib": _worker_growth(records)}


def _sampler_seconds(dicts: list[dict]) -> dict:
    from detectron2.data.samplers import RepeatFactorTrainingSampler as Detectron2Sampler

    from balms_det.data import samplers
    from balms_det.data.repeat_factors import CategoryIncidence

    names = (
        "RepeatFactorTrainingSampler",
        "InstanceAwareRepeatFactorTrainingSampler",
        "ClassBalancedTrainingSampler",
    )
    seconds = {}
    for name in names:
        sampler = samplers.SAMPLER_REGISTRY.get(name)

        def build(sampler=sampler):
            epoch = iter(sampler(CategoryIncidence.from_dicts(dicts), seed=0))
            next(epoch)

        seconds[name] = _timed(build)["seconds"]
    reference = Detectron2Sampler.repeat_factors_from_category_frequency
    seconds["Detectron2's factors alone"] = _timed(lambda: reference(dicts, 0.001))["seconds"]
    return {"sampler_seconds": seconds}


class _MemoryOfReader:
    """A dataset that reads a record and returns the memory that the reading process owns alone."""

    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        import psutil

        self.records[index]
        process = psutil.Process()
        return process.pid, process.memory_full_info().uss if index % 500 < 2 else 0


def _worker_growth(records) -> float:
    """MiB that the memory of a worker grows by, from a tenth of the data to all of it (worst)."""
    from torch.utils.data import DataLoader

    loader = DataLoader(_MemoryOfReader(records), None, num_workers=2, collate_fn=None)
    used: dict[int, list[int]] = {}
    for pid, memory in loader:
        if memory:
            used.setdefault(pid, []).append(memory)
    return max(series[-1] - series[len(series) // 10] for series in used.values()) / MEBIBYTE


def _timed(function) -> dict:
    start = time.perf_counter()
    function()
    return {"seconds": time.perf_counter() - start, "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    """Peak resident memory of this process (VmHWM, which, unlike getrusage, starts at exec)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_own_process(name: str, path: Path) -> dict:
    """Run ``measure_<name>(path)`` in a fresh interpreter."""
    command = [sys.executable, __file__, "--measure", name, "--folder", str(path)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def run(folder: Path) -> bool:
    from balms_det.annotations.summary import SUFFIX
    from benchmarks.lvis_sized import generate

    path = folder / "train.json"
    if not path.exists():
        generate(folder)
    print(f"{path}: {path.stat().st_size / MEBIBYTE:.0f} MiB")
    Path(f"{path}{SUFFIX}").unlink(missing_ok=True)
    full = in_own_process("lvis_package", path)
    cold = in_own_process("class_stats", path)
    warm = in_own_process("class_stats", path)
    for name, measured in (("lvis.LVIS(file)", full), ("counts, cold", cold), ("warm", warm)):
        print(f"{name:16} {measured['seconds']:8.3f} s {measured['peak_mib']:8.0f} MiB peak")
    loader = in_own_process("loader", path)
    print(f"dataset dicts loaded in {loader['load_seconds']:.1f} s")
    for name, seconds in loader["sampler_seconds"].items():
        print(f"{name:42} {seconds:6.2f} s")
    ours = list(loader["sampler_seconds"].values())[:3]
    return all(
        [
            _check("cold time / lvis.LVIS", cold["seconds"] / full["seconds"], 0.5),
            _check("cold peak memory / lvis.LVIS", cold["peak_mib"] / full["peak_mib"], 0.5),
            _check("warm seconds", warm["seconds"], 0.1),
            _check("slowest sampler, seconds", max(ours), 10),
            _check("growth of a loader worker, MiB", loader["worker_growth_mib"], 32),
        ]
    )


def _check(what: str, value: float, limit: float) -> bool:
    print(f"{what:32} {value:8.3f}  limit {limit:<6} {'ok' if value <= limit else 'MISSED'}")
    return value <= limit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="keep the generated file here and use it again")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure = globals()[f"measure_{args.measure}"]
        print(json.dumps(measure(str(args.folder))))
        return 0
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        return 0 if run(args.folder) else 1
    with tempfile.TemporaryDirectory(prefix="balms_det_data_path_") as folder:
        return 0 if run(Path(folder)) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks.lvis_sized
    sys.exit(main())
