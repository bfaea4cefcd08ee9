"""Many ways to train a classifier from one cache, compared: methods x seeds.

A method is a config; every pair of method and seed is a job, whose folder keeps its result and its
classifier. A job that has finished with the same inputs is not repeated.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from balms_det import __version__
from balms_det.classifier.recipe import Choices, Recipe, build_trainee, make_recipe
from balms_det.classifier.run import (
    Source,
    classifier_state,
    defined,
    load_classifier_state,
    open_source,
    train_once,
    write_model,
)
from balms_det.engine.partial_state import state_digest
from balms_det.engine.weights_files import load_tensors
from balms_det.evaluation.tables import METRICS, Row
from balms_det.features import FeatureCache
from balms_det.losses import BOX_LOSS_REGISTRY
from balms_det.utils.children import end_worker_with_parent, ended_with_errors, quiet_children
from balms_det.utils.files import atomic_path, write_atomically

RESULT, CLASSIFIER = "result.json", "classifier.pth"


@dataclass(frozen=True)
class Job:
    """One method with one seed.

    Attributes:
        label: of the method.
        recipe: of the training, seed included.
        seed: which.
        cache, evaluate: folders of the cache for training and of that for evaluation.
        out: folder of its result.
    """

    label: str
    recipe: Recipe
    seed: int
    cache: str
    evaluate: str
    out: str


@dataclass(frozen=True)
class Failure:
    """A job that failed, and how."""

    label: str
    seed: int
    error: str


def find_methods(
    configs: Sequence[Path], cache: FeatureCache, choices: Choices, out: Path
) -> dict[str, Recipe]:
    """A method for each config, by the name of its file.

    Raises:
        ValueError: two of the same name.
    """
    methods: dict[str, Recipe] = {}
    for path in configs:
        if path.stem in methods:
            raise ValueError(f"{path}: there is another method of that name; rename the file")
        methods[path.stem] = make_recipe(cache, str(path), choices, out)
    return methods


def add_missing_losses(
    methods: dict[str, Recipe], base: Path, cache: FeatureCache, choices: Choices, out: Path
) -> None:
    """Add a method for every registered loss that none of the configs trains with."""
    covered = {method.load().MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME for method in methods.values()}
    for name, _ in BOX_LOSS_REGISTRY:
        if name not in covered:
            own = Choices(**{**vars(choices), "loss": name})
            methods[name] = make_recipe(cache, str(base), own, out)


def plan_jobs(
    methods: dict[str, Recipe],
    caches: Sequence[FeatureCache],
    evaluate: Sequence[str],
    out: Path,
) -> list[Job]:
    """Every method with every seed; seed k has ``caches[k]`` and ``evaluate[k]``."""
    jobs = []
    for seed, (cache, folder) in enumerate(zip(caches, evaluate)):
        for label, recipe in methods.items():
            own = Path(out) / "runs" / label / f"seed{seed}"
            run = recipe.run(cache, seed, own)
            jobs.append(Job(label, run, seed, str(cache.folder), folder, str(own)))
    return jobs


def run_jobs(
    jobs: Sequence[Job], processes: int, done: Callable[[Job, dict | None], None]
) -> tuple[dict[Job, dict], list[Failure]]:
    """Run the jobs, several at once with a thread each.

    Args:
        jobs: which.
        processes: how many run at once.
        done: told of every job when it ends, with its result, None if it failed.

    Returns:
        The result of each that did not fail, and the others.
    """
    context = multiprocessing.get_context("spawn")
    results, failures = {}, []
    pool = ProcessPoolExecutor(processes, context, initializer=_start_worker)
    with quiet_children(), pool, ended_with_errors(pool):
        waiting: dict[Future, Job] = {pool.submit(run_job, job): job for job in jobs}
        for future in as_completed(waiting):
            job, error = waiting[future], future.exception()
            if error is None:
                results[job] = future.result()
            else:
                failures.append(Failure(job.label, job.seed, f"{type(error).__name__}: {error}"))
            done(job, results.get(job))
    return results, sorted(failures, key=lambda failure: (failure.label, failure.seed))


def _start_worker() -> None:
    end_worker_with_parent()
    torch.set_num_threads(1)


def run_job(job: Job) -> dict:
    """The result of a job, from its folder if it has finished there with the same inputs."""
    folder = Path(job.out)
    cfg = job.recipe.load()
    inputs = _inputs(job, cfg.dump())
    path = folder / RESULT
    if path.exists():
        known = json.loads(path.read_text())
        whole = "state" in known and (folder / CLASSIFIER).exists()
        if known["inputs"] == inputs and whole:
            return known
    source = _source(job.cache, job.evaluate, cfg.MODEL.DEVICE)
    started = time.process_time()
    trainee, outcome = train_once(job.recipe, source)
    with atomic_path(folder / CLASSIFIER) as part:
        torch.save(classifier_state(trainee.model), part)
    metrics = {name: defined(outcome.metrics[name]) for name in METRICS}
    result = {
        "inputs": inputs,
        "state": outcome.state,
        "seconds": outcome.seconds,
        "processor_seconds": time.process_time() - started,
        **metrics,
        "losses": outcome.losses,
    }
    write_atomically(path, json.dumps(result))
    return json.loads(path.read_text())


def _inputs(job: Job, config: str) -> str:
    digest = hashlib.sha256(f"{__version__}\n{config}".encode())
    for folder in (job.cache, job.evaluate):
        digest.update((Path(folder) / "manifest.json").read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=4)
def _source(cache: str, evaluate: str, device: str) -> Source:
    # Checksums were compared once, before the processes started.
    opened = FeatureCache.open(cache, verify=False)
    return open_source(opened, evaluate, device=device, verify=False)


def make_rows(jobs: Sequence[Job], results: dict[Job, dict], metric: str = "AP") -> list[Row]:
    """A row a method, the best first; what failed is None there."""
    values: dict[str, dict[str, list]] = {}
    for job in jobs:
        own = values.setdefault(job.label, {name: [] for name in (*METRICS, "seconds")})
        for name, column in own.items():
            column.append(results[job][name] if job in results else None)
    rows = [Row(label, columns) for label, columns in values.items()]
    return sorted(rows, key=lambda row: -mean_of(row, metric))


def mean_of(row: Row, metric: str) -> float:
    """The mean over seeds; minus infinity if a seed failed or its value is undefined."""
    values = row.values[metric]
    return float("-inf") if None in values else sum(values) / len(values)


def write_winner(jobs: Sequence[Job], rows: Sequence[Row], out: Path, metric: str) -> Path | None:
    """Write model and config of the best method's first seed; None if every method failed.

    Returns:
        The config's path.

    Raises:
        ValueError: the model to be written is not the one whose metric won.
    """
    if not rows or mean_of(rows[0], metric) == float("-inf"):
        return None
    job = next(job for job in jobs if job.label == rows[0].label)
    trainee = build_trainee(job.recipe.load(), FeatureCache.open(job.cache, verify=False))
    trainee.finish()
    state = load_tensors(Path(job.out) / CLASSIFIER)
    load_classifier_state(trainee.model, state)
    if state_digest(trainee.model) != json.loads((Path(job.out) / RESULT).read_text())["state"]:
        raise ValueError(
            f"{job.out}: {CLASSIFIER} and the cache's checkpoint do not give the model that was "
            "measured: one of them has changed since. Remove this folder and sweep again"
        )
    comment = f"Written by tools/sweep.py: {job.label} has the highest {metric} of {len(rows)}"
    return write_model(Path(out) / "winner", trainee.model, job.recipe, comment)[1]
