"""The Meta Reweighter (BALMS, Ren et al., NeurIPS 2020, appendix B.2).

Symbols: see :mod:`balms_det.meta.learner`.
"""

import torch
from torch import Tensor

from balms_det.meta.learner import META_LEARNER_REGISTRY, MetaLearner


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
