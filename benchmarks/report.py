"""What the report costs on LVIS-like data of 1,203 classes: time, memory, size, and its opening.

    python benchmarks/report.py [--images 2000] [--runs 2] [--folder FOLDER]

The time to write it is processor time, so that waiting for other processes does not count, and it
is given against ``evaluate_lvis`` alone on the same files in the same run. Pictures are smoothed
noise, which compresses like photos. Where Chromium and ChromeDriver are installed, the page is
opened and timed inside it: from the start of the navigation to the load event, sorting by name, a
search, and the change to another class.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from lvis_results import HEIGHT, WIDTH, write
from PIL import Image, ImageFilter

from balms_det.evaluation import evaluate_lvis
from balms_det.report import write_report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.evaluation.browser import WHY_NOT, Browser

PICTURES = 40
TIMED = """[
    () => document.querySelector('#table thead th button').click(),
    () => { document.querySelector('#search').value = 'an'; filterRows(); },
    () => select((state.class + 100) % CLASSES.names.length),
].map((action) => { const start = performance.now(); action(); document.body.offsetHeight;
    return performance.now() - start; })"""


def make_files(folder: Path, num_images: int, num_runs: int) -> tuple[Path, dict[str, Path]]:
    runs = {}
    for run in range(num_runs):  # the last truth is kept: what the other runs find is chance
        truth, results = write(folder / f"run{run}", num_images, seed=run)
        runs[f"run {run}"] = results
    (folder / "val").mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for n in range(PICTURES):
        noise = generator.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))
        picture.save(folder / "val" / f"{n}.jpg")
    content = json.loads(truth.read_text())
    for image in content["images"]:
        image["file_name"] = f"val/{image['id'] % PICTURES}.jpg"
    truth.write_text(json.dumps(content))
    return truth, runs


def opening(page: Path, folder: Path, rounds: int = 5) -> dict[str, float]:
    """Milliseconds, medians over rounds."""
    browser = Browser(folder)
    loads, actions = [], []
    try:
        for _ in range(rounds):
            browser.open(page)
            loads.append(browser.js("performance.getEntriesByType('navigation')[0].loadEventEnd"))
            actions.append(browser.js(TIMED))
    finally:
        browser.close()
    medians = [statistics.median(values) for values in zip(*actions)]
    return dict(zip(("load", "sort", "search", "class"), [statistics.median(loads), *medians]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the files and the page here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        truth, runs = make_files(folder, args.images, args.runs)
        start = time.process_time()
        for results in runs.values():
            evaluate_lvis(truth, results)
        evaluation = time.process_time() - start
        page = folder / "report.html"
        start = time.process_time()
        write_report(truth, runs, page, images=folder, counts="lvis_v1_train")
        seconds = time.process_time() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{args.images} images, {300 * args.images} detections in each of {args.runs} runs")
        print(f"evaluate_lvis {evaluation:.1f} s, write_report {seconds:.1f} s", end=" ")
        print(f"({seconds / evaluation:.2f} x), peak memory {memory:.2f} GiB")
        print(f"page {page.stat().st_size / 1e6:.1f} MB")
        if WHY_NOT:
            print(f"not opened: {WHY_NOT}")
            return
        for name, milliseconds in opening(page, Path(temporary)).items():
            print(f"{name} {milliseconds:.0f} ms")


if __name__ == "__main__":
    main()
