"""From a cache and a config to the model whose classifier is to be trained, with all checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn

from balms_det.classifier.methods import Method, build_method
from balms_det.data.class_stats import build_class_stats
from balms_det.engine.checkpoint import load_weights
from balms_det.engine.config import load_cfg
from balms_det.engine.trainer import LongTailTrainer
from balms_det.engine.weights_files import local_weights
from balms_det.features import FeatureCache
from balms_det.modeling import BoxPredictor
from balms_det.modeling.box_predictor import box_predictors
from balms_det.utils.files import write_atomically


@dataclass(frozen=True)
class Choices:
    """What a command line says over a config file; what is empty stays as it is there.

    Attributes:
        loss: a loss of the registry, and ``loss_args`` its keyword arguments, KEY VALUE.
        method, sampler, meta: of ``CLASSIFIER`` and ``META``. ``sampler`` may also be one of images
            (``DATALOADER.SAMPLER_TRAIN``).
        iterations, lr: of ``SOLVER``.
        batch: RoIs of a batch.
        opts: further KEY VALUE pairs; what the others say wins over them.
    """

    loss: str = ""
    loss_args: Sequence[str] = ()
    method: str = ""
    sampler: str = ""
    meta: str = ""
    iterations: int = 0
    lr: float = 0.0
    batch: int = 0
    opts: Sequence[str] = field(default=())

    def as_opts(self, rois_per_image: int) -> list[str]:
        """KEY VALUE pairs of a config.

        Raises:
            ValueError: a batch that is no multiple of the RoIs of an image, or arguments that come
                in no pairs.
        """
        loss = "MODEL.ROI_BOX_HEAD.CLS_LOSS"
        images, rest = divmod(self.batch, rois_per_image)
        if rest or self.batch < 0:
            raise ValueError(
                f"a batch is of whole images with {rois_per_image} RoIs each (MODEL.ROI_HEADS."
                f"BATCH_SIZE_PER_IMAGE): {self.batch} is no multiple"
            )
        if len(self.loss_args) % 2:
            raise ValueError(f"arguments come as KEY VALUE pairs, got {' '.join(self.loss_args)!r}")
        pairs = zip(self.loss_args[::2], self.loss_args[1::2])
        by_image = "TrainingSampler" in self.sampler
        chosen = {
            f"{loss}.NAME": self.loss,
            **{f"{loss}.ARGS.{key.upper()}": value for key, value in pairs},
            "CLASSIFIER.METHOD": self.method,
            "DATALOADER.SAMPLER_TRAIN": self.sampler if by_image else "",
            "CLASSIFIER.SAMPLER": "DetectorSampler" if by_image else self.sampler,
            "META.NAME": self.meta,
            "SOLVER.MAX_ITER": str(self.iterations or ""),
            "SOLVER.BASE_LR": str(self.lr or ""),
            "SOLVER.IMS_PER_BATCH": str(images or ""),
        }
        if self.meta:  # the learner looks ahead by one step of plain SGD
            chosen["SOLVER.CLIP_GRADIENTS.ENABLED"] = "False"
        return list(self.opts) + [word for pair in chosen.items() if pair[1] for word in pair]


@dataclass(frozen=True)
class Recipe:
    """A config as the file and the KEY VALUE pairs that it is made of."""

    config_file: str
    opts: tuple[str, ...]

    def load(self) -> CfgNode:
        """The frozen config; its datasets are registered."""
        return load_cfg(self.config_file, list(self.opts))

    def run(self, cache: FeatureCache, seed: int, out: str | Path) -> Recipe:
        """That of one training: the cache's weights, if no others are named, seed and folder."""
        weights = () if "MODEL.WEIGHTS" in self.opts else ("MODEL.WEIGHTS", weights_of(cache))
        opts = (*self.opts, *weights, "SEED", str(seed), "OUTPUT_DIR", str(out))
        return Recipe(self.config_file, opts)


def make_recipe(cache: FeatureCache, config_file: str, choices: Choices, out: Path) -> Recipe:
    """How to train from a cache.

    Args:
        cache: of the detector.
        config_file: of stage 2; empty for the detector's own config, which is then written to
            ``out`` as ``detector.yaml``.
        choices: what the command line says.
        out: folder of the results.
    """
    if not config_file:
        config_file = str(Path(out) / "detector.yaml")
        write_atomically(config_file, cache.manifest.config)
    stage1 = CfgNode.load_cfg(cache.manifest.config)
    rois_per_image = stage1.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    opts = choices.as_opts(rois_per_image)
    return Recipe(config_file, ("MODEL.DECOUPLED.ENABLED", "True", *opts))


def weights_of(cache: FeatureCache) -> str:
    """The checkpoint that a cache was made with."""
    return CfgNode.load_cfg(cache.manifest.config).MODEL.WEIGHTS


@dataclass
class Trainee:
    """A detector whose classifier is to be trained, frozen but for that."""

    cfg: CfgNode
    model: nn.Module
    method: Method

    @property
    def predictors(self) -> list[BoxPredictor]:
        return box_predictors(self.model)

    def finish(self) -> None:
        """Leave ordinary classifiers, in evaluation mode."""
        for stage, predictor in enumerate(self.predictors):
            self.method.finish(predictor, stage)
        self.model.eval()


def build_trainee(cfg: CfgNode, cache: FeatureCache) -> Trainee:
    """The model of a config with the weights that the cache was made with, as stage 2 starts it.

    Raises:
        ValueError: the config or its data are not those of the cache; more than the classifier is
            to be trained; and what the parts raise for unknown names and wrong arguments.
        FileNotFoundError: no weights.
    """
    check_config(cfg, cache)
    method = build_method(cfg)
    seed_all_rng(max(cfg.SEED, 0))
    model = LongTailTrainer.build_model(cfg).train()
    predictors = box_predictors(model)
    fresh = [_copy(predictor.cls_score) for predictor in predictors]
    load_weights(cfg, model)
    width = predictors[0].cls_score.in_features
    if width != cache.manifest.feature_dim or len(predictors) != cache.manifest.num_stages:
        raise ValueError(
            f"{cache.folder}: the cache is of {cache.manifest.num_stages} box heads with "
            f"{cache.manifest.feature_dim} features, the model has {len(predictors)} with {width}"
        )
    for predictor, start in zip(predictors, fresh):
        method.prepare(predictor, start)
    return Trainee(cfg, model, method)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def check_config(cfg: CfgNode, cache: FeatureCache) -> None:
    """Whether a config trains the classifier alone, of the cache's model and on its data.

    Raises:
        ValueError: it does not.
        FileNotFoundError: ``MODEL.WEIGHTS`` is no file.
    """
    trained = list(cfg.MODEL.DECOUPLED.TRAIN_ONLY)
    if not cfg.MODEL.DECOUPLED.ENABLED or trained != ["cls_score"]:
        raise ValueError(
            f'a cache trains the classifier alone: MODEL.DECOUPLED must be on, with ["cls_score"] '
            f"as TRAIN_ONLY, which is {trained}"
        )
    if cfg.SOLVER.AMP.ENABLED:
        raise ValueError("training from a cache is in full precision: set SOLVER.AMP.ENABLED False")
    try:
        local_weights(cfg.MODEL.WEIGHTS)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; it must be the checkpoint that the cache was made with"
        ) from error
    cache.check_matches(cfg)
    own, cached = build_class_stats(cfg), cache.manifest.class_stats()
    if list(own.instance_count) != list(cached.instance_count):
        raise ValueError(
            f"{cache.folder}: DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} has other counts than the "
            "data of the cache: it is another dataset, or was changed since"
        )
