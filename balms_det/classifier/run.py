"""One training of a classifier from a cache, and what it is worth."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from balms_det.classifier.pool import RoIPool
from balms_det.classifier.recipe import Recipe, Trainee, build_trainee
from balms_det.classifier.train import build_classifier_trainer
from balms_det.engine.config import as_yaml, child_content
from balms_det.engine.identity import model_identity
from balms_det.engine.partial_state import copy_into, state_digest
from balms_det.engine.run_record import write_results, write_run_record
from balms_det.engine.weights_files import IDENTITY
from balms_det.engine.written_model import check_written
from balms_det.evaluation.tables import METRICS, Row
from balms_det.features import FeatureCache
from balms_det.features.evaluate import CachedEvaluation
from balms_det.utils.files import atomic_path, write_atomically


@dataclass(frozen=True)
class Source:
    """A detector's cached features.

    Attributes:
        cache: for training.
        pools: its RoIs, of every stage.
        evaluation: on a cached validation set; None where there is none.
    """

    cache: FeatureCache
    pools: list[RoIPool]
    evaluation: CachedEvaluation | None


def open_source(cache: FeatureCache, evaluate: str | Path, *, device: str, verify: bool) -> Source:
    """Read a cache for training, and open the cached validation set that goes with it.

    Args:
        cache: for training.
        evaluate: folder of a cache for evaluation, whose dataset is registered; or empty.
        device: where classifiers are trained.
        verify: see ``FeatureCache.open``.

    Raises:
        FeatureCacheError: a cache that is damaged, for something else, or of another model.
    """
    evaluation = None
    if evaluate:
        other = FeatureCache.open(evaluate, verify)
        cache.check_same_model(other)
        evaluation = CachedEvaluation(other)
    own = cache.manifest
    kept = {"views": own.views, "background": own.background, "device": device}
    stages = [cache.stage(number) for number in range(own.num_stages)]
    pools = [RoIPool(table, own.num_classes, **kept) for table in stages]
    return Source(cache, pools, evaluation)


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes:
        seconds: of training alone.
        metrics: AP, APr, APc and APf of boxes in percent (NaN: undefined); empty without a cached
            validation set.
        losses: (iteration, loss) of some iterations.
        state: digest of the model that was measured (``state_digest``).
    """

    seconds: float
    metrics: dict[str, float]
    losses: list[tuple[int, float]]
    state: str


def train_once(recipe: Recipe, source: Source) -> tuple[Trainee, Outcome]:
    """Train and evaluate one classifier.

    Args:
        recipe: of one training (``Recipe.run``).
        source: of its features.

    Returns:
        The detector with its new, ordinary classifier, and the outcome.

    Raises:
        ValueError, TypeError, FileNotFoundError: see :func:`build_trainee`.
        FloatingPointError: the loss became NaN or infinite.
    """
    trainee = build_trainee(recipe.load(), source.cache)
    started = time.perf_counter()
    losses: list[tuple[int, float]] = []
    if trainee.method.trains:
        trainer = build_classifier_trainer(
            trainee.cfg, trainee.predictors, source.pools, sampler=trainee.method.sampler
        )
        trainer.train()
        losses = trainer.losses
    trainee.finish()
    seconds = time.perf_counter() - started
    metrics = {} if source.evaluation is None else source.evaluation.box_ap(trainee.predictors)
    return trainee, Outcome(seconds, metrics, losses, state_digest(trainee.model))


def pair_with_seeds(folders: Sequence[str], seeds: int, what: str) -> list[str]:
    """The cache of every seed: one for all, or one a seed; none gives empty names.

    Raises:
        ValueError: fewer than one seed, or another number of caches.
    """
    if seeds < 1:
        raise ValueError(f"there must be at least one seed, got {seeds}")
    if len(folders) not in (0, 1, seeds):
        raise ValueError(f"give one {what} for all seeds, or {seeds}, got {len(folders)}")
    return list(folders) if len(folders) == seeds else list(folders or [""]) * seeds


def train_seeds(
    recipe: Recipe,
    caches: Sequence[FeatureCache],
    evaluate: Sequence[str],
    out: Path,
    label: str,
) -> Row:
    """Train a classifier for every seed; each leaves ``seed<k>`` with a checkpoint, a
    config and ``run.json``.

    Args:
        recipe: how.
        caches: of seed 0, 1, ...
        evaluate: folders of caches for evaluation, or empty names.
        out: folder.
        label: of the row.

    Returns:
        Its AP, APr, APc, APf and seconds of training.
    """
    device = recipe.load().MODEL.DEVICE
    values: dict[str, list[float | None]] = {name: [] for name in (*METRICS, "seconds")}
    source = None
    for seed, (cache, folder) in enumerate(zip(caches, evaluate)):
        if source is None or source.cache is not cache:
            source = open_source(cache, folder, device=device, verify=True)
        own = recipe.run(cache, seed, Path(out) / f"seed{seed}")
        trainee, outcome = train_once(own, source)
        write_run_record(trainee.cfg, features=str(cache.folder))
        comment = f"Written by tools/train_classifier.py: {label}, from {cache.folder}"
        write_model(Path(trainee.cfg.OUTPUT_DIR), trainee.model, own, comment)
        if outcome.metrics:
            write_results(trainee.cfg, {"bbox": outcome.metrics})
        for name in METRICS:
            values[name].append(defined(outcome.metrics.get(name)))
        values["seconds"].append(outcome.seconds)
    return Row(label, values)


def defined(value: float | None) -> float | None:
    """None for NaN."""
    return None if value is None or math.isnan(value) else value


WEIGHTS, CONFIG = "model_final.pth", "config.yaml"
#: Parts of a parameter's name of which the trained classifier and its loss consist.
TRAINED_PARTS = {"cls_score", "cls_loss"}


def classifier_state(model: nn.Module) -> dict[str, Tensor]:
    """The part of a detector's state dict that the training may have changed, on the CPU."""
    return {
        name: value.detach().cpu().clone()
        for name, value in model.state_dict().items()
        if TRAINED_PARTS & set(name.split("."))
    }


def load_classifier_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a :func:`classifier_state` into a detector of the same config.

    Raises:
        ValueError: it has other parts.
    """
    own = classifier_state(model)
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in state.items()}:
        raise ValueError("the classifier is of another model: it has other tensors")
    copy_into(model, state)


def write_model(out: Path, model: nn.Module, recipe: Recipe, comment: str) -> tuple[Path, Path]:
    """Write ``model_final.pth`` and ``config.yaml``, its child config.

    ``tools/train_net.py --eval-only --config-file config.yaml`` evaluates it, and Detectron2's
    ``DefaultPredictor`` takes the config.

    Args:
        out: folder.
        model: trained, with ordinary classifiers.
        recipe: how it was trained.
        comment: first line of the config.

    Returns:
        The two paths.

    Raises:
        ValueError: loaded from these files it is another model.
    """
    weights, config = Path(out) / WEIGHTS, Path(out) / CONFIG
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    identity = model_identity(recipe.load(), model).plain()
    with atomic_path(weights) as part:
        torch.save({"model": state, "__author__": "balms_det", IDENTITY: identity}, part)
    opts = [*recipe.opts, "MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(out)]
    content = child_content(config, recipe.config_file, opts)
    write_atomically(config, as_yaml(content, comment))
    check_written(config, state)
    return weights, config
