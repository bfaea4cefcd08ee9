"""One box predictor, and the batches that it is trained on from a cache.

Symbols: see :mod:`balms_det.engine.classifier.roi_pool`.
"""

from __future__ import annotations

from dataclasses import dataclass

from balms_det.engine.classifier.roi_pool import RoIPool
from balms_det.engine.classifier.samplers import RoISampler
from balms_det.losses import ContextLoss
from balms_det.meta import RoIBatch
from balms_det.modeling import BoxPredictor


@dataclass
class CachedStage:
    """One box predictor with the RoIs that it is trained on.

    Attributes:
        predictor: whose ``cls_score`` trains.
        pool: the RoIs.
        sampler: which of them make a training batch.
        meta_sampler: which of them make a meta batch; None without a meta learner.
    """

    predictor: BoxPredictor
    pool: RoIPool
    sampler: RoISampler
    meta_sampler: RoISampler | None = None

    @property
    def loss_weight(self) -> float:
        return self.predictor.loss_weight.get("loss_cls", 1.0)

    def train_batch(self) -> RoIBatch:
        """The next batch, classified, with the rows that the loss adds; sets its context."""
        index = next(self.sampler)
        features, loss = self.pool.features(index), self.predictor.cls_loss
        batch = RoIBatch(features, self.predictor.cls_score(features), self.pool.labels(index))
        if isinstance(loss, ContextLoss):
            batch = self.predictor.in_context(batch, self.pool.context(loss, index))
        return batch

    def meta_batch(self) -> RoIBatch:
        """The next meta batch; the meta step makes its logits itself."""
        index = next(self.meta_sampler)
        features = self.pool.features(index)
        return RoIBatch(features, features.new_empty(0), self.pool.labels(index))

    def forget_context(self) -> None:
        if isinstance(self.predictor.cls_loss, ContextLoss):
            self.predictor.cls_loss.context = {}
