"""A step from the cache is the step of stage 2 through the detector, on the same RoIs."""

import copy
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage

from balms_det.classifier.pool import RoIPool
from balms_det.classifier.train import CachedStage, ClassifierTrainer
from balms_det.engine.hooks import scheduled_losses
from balms_det.engine.meta_trainer import MetaStepTrainer, build_meta_step
from balms_det.engine.trainer import freeze_all_but
from balms_det.modeling.box_predictor import box_predictors
from balms_det.modeling.roi_context import read_context
from tests.modeling.conftest import NUM_CLASSES, batch, tiny_cfg  # noqa: F401

STEPS = 4
STATS = SimpleNamespace(
    image_count=[50, 20, 9, 3, 1], instance_count=[90, 30, 12, 3, 1], num_images=60
)


class Recorded:
    """The batches of one box predictor as a table of a cache, in float32."""

    def __init__(self, batches):
        self.features = torch.cat([features for features, _, _ in batches])
        self.gt_classes = torch.cat([labels for _, labels, _ in batches])
        self.sizes = [len(labels) for _, labels, _ in batches]
        self.contexts = [context for _, _, context in batches]
        self.objects = self._field("object_ids", -1)
        self.carried = self._field("all_classes", False)

    def _field(self, name, empty):
        if name not in self.contexts[0]:
            return torch.full((len(self.gt_classes),), empty)
        return torch.cat([context[name] for context in self.contexts])

    def __len__(self):
        return len(self.gt_classes)

    def gather(self, index):
        return self.features[index]

    def all_classes(self, index):
        return self.carried[index]

    def batches(self):
        rows = torch.arange(len(self)).split(self.sizes)
        while True:
            yield from rows


def record(predictors):
    """Note what every predictor trains on; returns the lists that fill, one a predictor."""
    seen = [[] for _ in predictors]
    for predictor, own in zip(predictors, seen):
        features = []
        predictor.register_forward_pre_hook(
            lambda _, inputs, features=features: features.append(inputs[0].detach().flatten(1))
        )

        def losses(predictions, proposals, predictor=predictor, own=own, features=features):
            labels = torch.cat([p.gt_classes for p in proposals])
            loss = predictor.cls_loss
            context = read_context(loss, proposals) if hasattr(loss, "reads") else {}
            own.append((features[-1], labels, context))
            return type(predictor).losses(predictor, predictions, proposals)

        predictor.losses = losses
    return seen


def stage2(cfg, seed=1):
    torch.manual_seed(seed)
    model = freeze_all_but(build_model(cfg), ["cls_score"]).train()
    optimizer = build_optimizer(cfg, model)
    return model, optimizer, build_lr_scheduler(cfg, optimizer)


def through_detector(cfg, data, meta_data=None):
    """Train stage 2; returns the model and the recorded batches (and those of the meta set)."""
    model, optimizer, scheduler = stage2(cfg)
    predictors = box_predictors(model)
    seen = record(predictors)
    loaders = iter(data), iter(meta_data or [])
    if cfg.META.NAME:
        trainer = MetaStepTrainer(model, loaders[0], optimizer, loaders[1], build_meta_step(cfg))
    else:
        trainer = SimpleTrainer(model, loaders[0], optimizer)
    with EventStorage():
        for step in range(STEPS):
            trainer.iter = step
            for loss in scheduled_losses(model):
                loss.set_progress(step / STEPS)
            torch.manual_seed(step)
            trainer.run_step()
            scheduler.step()
    return model, seen, trainer


def from_cache(cfg, seen, meta_seen=None):
    model, _, _ = stage2(cfg)
    optimizer = build_optimizer(cfg, model)
    stages = []
    for number, (predictor, batches) in enumerate(zip(box_predictors(model), seen)):
        table = Recorded(batches)
        pool = RoIPool(table, NUM_CLASSES)
        stages.append(CachedStage(predictor, pool, Stream(table.batches())))
        if meta_seen:
            # The meta batches come from rows of their own behind the others.
            both = Recorded(batches + meta_seen[number])
            rows = torch.arange(len(both)).split(both.sizes)
            stages[-1] = CachedStage(
                predictor,
                RoIPool(both, NUM_CLASSES),
                Stream(iter(rows[: len(batches)])),
                Stream(iter(rows[len(batches) :])),
            )
    trainer = ClassifierTrainer(
        stages,
        optimizer,
        build_lr_scheduler(cfg, optimizer),
        max_iter=STEPS,
        seed=0,
        meta_step=build_meta_step(cfg) if cfg.META.NAME else None,
    )
    trainer.train()
    return model, trainer


class Stream:
    """A sampler of given batches."""

    def __init__(self, rows):
        self.rows = rows

    def __next__(self):
        return next(self.rows)

    def set_rates(self, rates):
        pass


@pytest.fixture
def cfg(tiny_cfg, monkeypatch):  # noqa: F811
    monkeypatch.setattr("balms_det.modeling.box_predictor.build_class_stats", lambda cfg: STATS)
    tiny_cfg.SOLVER.BASE_LR = 0.05
    tiny_cfg.SOLVER.MAX_ITER = STEPS
    tiny_cfg.SOLVER.WARMUP_ITERS = 2
    tiny_cfg.SOLVER.STEPS = (3,)
    tiny_cfg.MODEL.MASK_ON = False
    return tiny_cfg


def check_equal(trained, mine):
    theirs = trained.state_dict()
    names = [name for name in theirs if "cls_score" in name or "cls_loss" in name]
    assert names
    for name in names:
        torch.testing.assert_close(mine.state_dict()[name], theirs[name], rtol=1e-5, atol=1e-5)


STANDARD, CASCADE = "LongTailROIHeads", "LongTailCascadeROIHeads"


@pytest.mark.parametrize(
    ("heads", "loss"),
    # Softmax; sigmoid; state; other outputs and a cosine classifier; a schedule; the context of
    # RoIs. LOCE draws its rows from a random stream that the detector has moved: without memory.
    [
        *[(STANDARD, name) for name in ("SoftmaxLoss", "BalancedSigmoidLoss", "EQLv2Loss")],
        *[(STANDARD, name) for name in ("SeesawLoss", "PCBLoss", "SoftTopKLoss", "LOCELoss")],
        *[(CASCADE, name) for name in ("SoftmaxLoss", "SoftTopKLoss")],
    ],
)
def test_steps_are_those_of_the_detector(cfg, batch, heads, loss):  # noqa: F811
    cfg.MODEL.ROI_HEADS.NAME = heads
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in heads
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = loss
    if loss == "LOCELoss":
        cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.ARGS.QUEUE_SIZE = 0
    trained, seen, _ = through_detector(cfg, [copy.deepcopy(batch) for _ in range(STEPS)])
    start, _, _ = stage2(cfg)
    mine, trainer = from_cache(cfg, seen)
    check_equal(trained, mine)
    moved = [n for n, p in mine.named_parameters() if not torch.equal(p, start.state_dict()[n])]
    assert moved and all("cls_score" in name for name in moved)
    assert trainer.losses[-1][0] == STEPS


@pytest.mark.parametrize("learner", ["MetaReweighter", "MetaSampler"])
def test_meta_steps_are_those_of_the_detector(cfg, batch, learner):  # noqa: F811
    cfg.META.NAME, cfg.META.LR = learner, 0.05
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "BalancedSoftmaxLoss"
    data = [copy.deepcopy(batch) for _ in range(STEPS)]
    trained, seen, its = through_detector(cfg, data, [d[::-1] for d in copy.deepcopy(data)])
    # The detector sees the meta batch of a step before its training batch; recorded silently, so
    # that every second entry is a training batch.
    train, meta = [own[1::2] for own in seen], [own[0::2] for own in seen]
    mine, trainer = from_cache(cfg, train, meta)
    check_equal(trained, mine)
    theta = trainer.meta_step.learner.theta
    assert theta.abs().max() > 0
    torch.testing.assert_close(theta, its.meta_step.learner.theta, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_training(cfg, batch):  # noqa: F811
    _, seen, _ = through_detector(cfg, [copy.deepcopy(batch) for _ in range(STEPS)])
    features, labels, context = seen[0][-1]
    seen[0][-1] = (features * float("nan"), labels, context)
    with pytest.raises(FloatingPointError, match=r"iteration 4: lower SOLVER.BASE_LR"):
        from_cache(cfg, seen)
