"""evaluate_lvis against the official package: time, memory, and the same 13 numbers.

    python benchmarks/evaluation.py [--images 2000] [--full] [--folder DIR] [--rounds 3]

Ground truth and results are generated (``lvis_results.py``). Every measurement has a process of its
own. It loads what it is to start from, then the clock runs: from the results in memory as a list
of dicts, or from their json file (``from file``), and the annotation file, to the 13 numbers, with
all checks that each side makes. For masks the official package gets results without boxes, as
Detectron2 hands them over.

    s         wall-clock seconds
    CPU s     processor seconds of all threads; of the rounds the one that took the least of them
              (the official package has one round)
    faster    ratio of the wall-clock seconds, and of the processor seconds
    memory    peak of resident memory during that time, above what the process held before
    peak      peak of resident memory in all

``--full`` measures the size of LVIS v1's validation set, 19,809 images and 5.9 M detections, from
their file, for evaluate_lvis alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lvis_results import write
from tabulate import tabulate

FULL = 19_809
GB = 1 << 20  # /proc speaks of KiB


def official(truth: str, results: list, iou_type: str) -> dict:
    """The official package as Detectron2 calls it."""
    from balms_det.evaluation.backends.official import import_lvis

    lvis = import_lvis()
    evaluation = lvis.LVISEval(lvis.LVIS(truth), results, iou_type)
    evaluation.run()
    return dict(evaluation.get_results())


def ours(truth: str, results: list | str, iou_type: str) -> dict:
    from balms_det.evaluation import evaluate_lvis

    return evaluate_lvis(truth, results, iou_type).metrics


def resident(field: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(name: str, folder: Path, iou_type: str, from_file: bool) -> dict:
    """Run one candidate in this process."""
    import balms_det.evaluation  # noqa: F401  (imports are not measured)
    from balms_det.evaluation.backends.official import import_lvis

    results = str(folder / "results.json")
    if name == "official":
        import_lvis()
    else:
        import hotcoco  # noqa: F401
    if not from_file:
        results = json.loads(Path(results).read_text())
        if name == "official" and iou_type == "segm":
            for result in results:
                del result["bbox"]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start, processor = resident("VmRSS"), time.perf_counter(), time.process_time()
    metrics = {"official": official, "ours": ours}[name](
        str(folder / "truth.json"), results, iou_type
    )
    return {
        "seconds": time.perf_counter() - start,
        "processor": time.process_time() - processor,
        "memory": (resident("VmHWM") - before) / GB,
        "peak": resident("VmHWM") / GB,
        "metrics": metrics,
    }


def in_process(*arguments: str) -> dict:
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def compare(folder: Path, iou_type: str, rounds: int) -> list[list]:
    """Rows of the table for one IoU type."""
    reference = in_process("--measure", "official", "--folder", str(folder), "--iou-type", iou_type)
    arguments = ["--measure", "ours", "--folder", str(folder), "--iou-type", iou_type]
    runs = [in_process(*arguments) for _ in range(rounds)]
    best = min(runs, key=lambda run: run["processor"])
    if any(run["metrics"] != reference["metrics"] for run in runs):
        raise SystemExit(f"{iou_type}: the 13 numbers differ: {runs[0]}, {reference}")
    rows = [row(f"{iou_type}, official", reference), row(f"{iou_type}, evaluate_lvis", best)]
    rows[0] += ["", "", ""]
    rows[1] += [
        f"{reference['seconds'] / best['seconds']:.0f}x",
        f"{reference['processor'] / best['processor']:.0f}x",
        f"{best['memory'] / reference['memory']:.2f}",
    ]
    return rows


def row(label: str, run: dict) -> list:
    numbers = [run[key] for key in ("seconds", "processor", "memory", "peak")]
    return [label, *(f"{number:.2f}" for number in numbers)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--full", action="store_true", help="the full size, from the file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="generate here, and keep it")
    parser.add_argument("--iou-type", choices=("bbox", "segm"))
    parser.add_argument("--measure", choices=("official", "ours"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(
            json.dumps(
                measure(arguments.measure, arguments.folder, arguments.iou_type, arguments.full)
            )
        )
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if not (folder / "results.json").exists():
            write(folder, FULL if arguments.full else arguments.images)
        table = []
        for iou_type in [arguments.iou_type] if arguments.iou_type else ["bbox", "segm"]:
            if arguments.full:
                own = ["--measure", "ours", "--full", "--folder", str(folder)]
                run = in_process(*own, "--iou-type", iou_type)
                table.append(row(f"{iou_type}, evaluate_lvis, from file", run))
            else:
                table += compare(folder, iou_type, arguments.rounds)
    header = ["", "s", "CPU s", "memory GB", "peak GB", "faster", "by CPU", "of the memory"]
    print(tabulate(table, header[: len(table[0])], tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main()
