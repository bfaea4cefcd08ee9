"""The contract of a meta learner: what is learned about the classes, and how RoIs feel it.

Symbols and shapes
    K        foreground classes; label ``K`` is background
    R        RoIs of a batch, over all images and all ranks
    theta    (K,) the learned parameters, one a class
    omega    (R,) factors of the RoIs' losses; background has 1

With omega all 1 the classifier trains as without a learner.

Symbols: see :mod:`balms_det.meta.learners`.

Symbols: see :mod:`balms_det.meta.learners`, and
    rho      (K,) ``sigmoid(theta)``, the classes' sampling rates
    P, S     points to draw from, the foreground RoIs, and draws
    noise    (S, P) standard Gumbel noise

The images of a batch are drawn by the same rates: :mod:`balms_det.data.meta_sampling`.

"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from balms_det.utils.registry import check_keywords

META_LEARNER_REGISTRY = Registry("META_LEARNER")
META_LEARNER_REGISTRY.__doc__ = "Meta learners by class name (see :class:`MetaLearner`)."


class MetaLearner(nn.Module, ABC):
    """Learns one number in (0, 1) a class, ``sigmoid(theta_c)``, and turns it into RoI factors.

    Args:
        num_classes: K.

    Raises:
        ValueError: K below 1.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.theta = nn.Parameter(torch.zeros(num_classes))

    def rates(self) -> Tensor:
        """(K,) ``sigmoid(theta)``: the class weights or sampling rates, without graph."""
        return self.theta.detach().sigmoid()

    @abstractmethod
    def forward(self, gt_classes: Tensor) -> Tensor:
        """omega, (R,), differentiable by ``theta``.

        Args:
            gt_classes: (R,) labels in [0, K] of the whole batch, all ranks joined, in the same
                order on every rank.
        """

    def after_update(self, gt_classes: Tensor, omega: Tensor) -> Tensor:
        """The factors of the real step, (R,), once ``theta`` has moved; by default the same."""
        return omega


def build_meta_learner(name: str, num_classes: int, **kwargs: Any) -> MetaLearner:
    """Build a registered meta learner.

    Raises:
        ValueError: unknown name.
        TypeError: a keyword that the learner does not take, or a value of another kind.
    """
    if name not in META_LEARNER_REGISTRY:
        known = ", ".join(sorted(key for key, _ in META_LEARNER_REGISTRY))
        raise ValueError(f"Unknown meta learner {name!r} (META.NAME). Registered: {known}")
    learner = META_LEARNER_REGISTRY.get(name)
    check_keywords(learner, kwargs)
    return learner(num_classes, **kwargs)


@META_LEARNER_REGISTRY.register()
class MetaReweighter(MetaLearner):
    """Multiplies the loss of a foreground RoI by its class's weight ``w_c = sigmoid(theta_c)``.

    As in the authors' code the weights of a batch are scaled so that the mean over its foreground
    RoIs is 1; the paper does not say so, but without it the weights would also learn the learning
    rate. A batch without foreground has no factor other than 1.
    """

    def forward(self, gt_classes: Tensor) -> Tensor:
        foreground = gt_classes < self.num_classes
        weight = self.theta.sigmoid()[gt_classes.clamp(max=self.num_classes - 1)]
        total = (weight * foreground).sum().clamp(min=1e-12)
        return torch.where(foreground, weight * (foreground.sum() / total), 1.0)

    def after_update(self, gt_classes: Tensor, omega: Tensor) -> Tensor:
        with torch.no_grad():
            return self(gt_classes)


def gumbel_draw(
    log_rates: Tensor, noise: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draw points with probability proportional to their rates, differentiably.

    The straight-through Gumbel-Softmax (Jang et al., ICLR 2017): the maximum of
    ``log_rates + noise`` is drawn, and the one-hot sample has the gradient of the softmax.

    Args:
        log_rates: (P,) logarithms of the points' rates.
        noise: (S, P) Gumbel noise, a row a draw.
        temperature: of the softmax.

    Returns:
        (S,) the points drawn, and (S,) the retained entries of the one-hot samples: ones that
        carry the gradient to ``log_rates``.
    """
    perturbed = (log_rates + noise) / temperature
    drawn = perturbed.argmax(dim=1)
    soft = perturbed.softmax(dim=1).gather(1, drawn.unsqueeze(1)).squeeze(1)
    return drawn, 1 + soft - soft.detach()


def inverse_frequency_theta(count: Tensor, power: float) -> Tensor:
    """Where the authors' classification code starts theta: rates in proportion to ``1 / n^power``.

    The rates of the most and of the least frequent class add up to 1. For a :class:`MetaSampler`,
    which starts at equal rates: ``learner.theta.data.copy_(inverse_frequency_theta(...))``.

    Args:
        count: (K,) training counts, each positive.
        power: 0 for equal rates; theirs are 0.1 and 0.3.
    """
    rates = count.double() ** -power
    return torch.logit(rates / (rates.min() + rates.max()))


@META_LEARNER_REGISTRY.register()
class MetaSampler(MetaLearner):
    """Re-draws the foreground RoIs of a batch, with replacement, with probability ~ ``rho_y``.

    The factor of a RoI is how often it was drawn, divided by ``draws``, so the shares of foreground
    and background stay what Detectron2's RoI sampler made them. The draws are a function of
    ``seed`` and of how many batches were drawn before; the latter is in the state dict.

    Args:
        num_classes: K.
        draws: how many draws for each foreground RoI. One, as in the paper, leaves out a third of
            the RoIs of every batch, which short schedules do not make up for; with more, the
            factors come closer to ``rho_y`` over its mean.
        seed: of the draws; the same on every rank.
        temperature: of the Gumbel-Softmax; the draws do not depend on it, their gradient does.

    Raises:
        ValueError: ``draws`` below 1, or a ``temperature`` that is not positive.

    A batch of F foreground RoIs needs ``draws * F * F`` numbers of noise.
    """

    def __init__(
        self, num_classes: int, *, draws: int = 1, seed: int = 0, temperature: float = 1.0
    ):
        super().__init__(num_classes)
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature
        self.draws = draws
        self.seed = seed
        self._batches_drawn = 0

    def forward(self, gt_classes: Tensor) -> Tensor:
        # The one host synchronisation of a step: noise for all pairs of R would not fit.
        foreground = (gt_classes < self.num_classes).nonzero().squeeze(1)
        log_rho = F.logsigmoid(self.theta)[gt_classes[foreground]]
        omega = torch.ones_like(gt_classes, dtype=log_rho.dtype)
        if len(foreground) == 0:
            return omega + self.theta.sum() * 0
        drawn, retained = gumbel_draw(log_rho, self.gumbel_noise(log_rho), self.temperature)
        times_drawn = torch.zeros_like(log_rho).index_add(0, drawn, retained / self.draws)
        return omega.index_copy(0, foreground, times_drawn)

    def gumbel_noise(self, log_rates: Tensor) -> Tensor:
        """(S, P) noise for the next batch, on the device and of the dtype of ``log_rates``."""
        generator = torch.Generator(log_rates.device)
        generator.manual_seed(self.seed * 1_000_003 + self._batches_drawn)
        self._batches_drawn += 1
        noise = log_rates.new_empty(self.draws * len(log_rates), len(log_rates))
        return noise.exponential_(generator=generator).log_().neg_()

    def get_extra_state(self) -> dict:
        return {"batches_drawn": self._batches_drawn}

    def set_extra_state(self, state: dict) -> None:
        self._batches_drawn = state["batches_drawn"]
