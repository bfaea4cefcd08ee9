"""Trainers of a tiny detector, and hooks that put NaN into it."""

import copy
import itertools

import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.modeling import build_model

from balms_det.engine.hooks import SeedEveryStep
from balms_det.engine.meta_trainer import MetaStepTrainer, build_meta_step
from balms_det.engine.non_finite import NonFiniteGuard
from balms_det.engine.trainer import freeze_all_but

NAMES = ["ant", "bee", "cat", "dog", "<b>elk</b>\n"]
NAN, INF = float("nan"), float("inf")


class ScaledTrainer(SimpleTrainer):
    """Detectron2's AMPTrainer without autocast, which it has on CUDA alone."""

    def __init__(self, *args, scale):
        super().__init__(*args)
        self.grad_scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def run_step(self):
        losses = self.model(next(self._data_loader_iter))
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self._write_metrics(losses, 0.0)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()


class At(HookBase):
    """Changes the model for the time of some iterations: ``change`` returns what undoes it."""

    def __init__(self, iterations, change):
        self.iterations, self.change = iterations, change

    def before_step(self):
        self.undo = self.change() if self.trainer.iter in self.iterations else lambda: None

    def after_step(self):
        self.undo()


def with_ids(data):
    return [{**copy.deepcopy(record), "image_id": 70 + i} for i, record in enumerate(data)]


def make_trainer(cfg, data, kind=SimpleTrainer, **kwargs):
    torch.manual_seed(1)
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    return kind(model, itertools.repeat(with_ids(data)), optimizer, **kwargs)


def train(trainer, folder, steps=4, hooks=(), **kwargs):
    guard = NonFiniteGuard(folder, NAMES, **kwargs)
    trainer.register_hooks([SeedEveryStep(3), guard, *hooks])
    trainer.train(0, steps)
    return guard


def spoil(module, value, index=...):
    """Makes ``index`` of a module's output ``value``."""

    def change():
        def hook(_, __, output):
            output = output.clone()
            output[index] = value
            return output

        return module.register_forward_hook(hook).remove

    return change


def meta_trainer(cfg, train_data, meta_data):
    cfg.META.NAME, cfg.META.LR = "MetaReweighter", 0.01
    torch.manual_seed(1)
    model = freeze_all_but(build_model(cfg), ["cls_score"])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    loaders = [itertools.cycle(data) for data in (train_data, meta_data)]
    return MetaStepTrainer(model, loaders[0], optimizer, loaders[1], build_meta_step(cfg))
