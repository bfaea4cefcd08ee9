"""ElasticFace (Boutros et al., "ElasticFace: Elastic Margin Loss for Deep Face Recognition", CVPR
Workshops 2022): angular margins drawn anew for every RoI.

Symbols: see :mod:`balms_det.losses.normalized_softmax`, and
    theta_y  angle of a RoI's feature and the weight of its label
    margin   a draw from N(m, sigma^2)
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from balms_det.losses.core.base import BOX_LOSS_REGISTRY
from balms_det.losses.normalized_softmax import CosineSoftmaxFamily

MARGINS = {"arc": 0.5, "cos": 0.35}  # m of the paper (section 4.1)


@BOX_LOSS_REGISTRY.register()
class ElasticFaceLoss(CosineSoftmaxFamily):
    """Cross-entropy whose label is at ``cos(theta_y + margin)`` or ``cos(theta_y) - margin``.

    Faces have no background: here a background RoI has no margin, as background is no class whose
    members are alike.

    Args:
        num_classes, class_stats: see :class:`balms_det.losses.BoxLoss`; counts are not read.
        form: "arc" (ElasticFace-Arc, equation 5) or "cos" (ElasticFace-Cos, equation 6).
        margin: m; None for the paper's, 0.5 ("arc", radians) and 0.35 ("cos").
        sigma: standard deviation of the margins; 0 is ArcFace or CosFace.
        scale: factor of the cosines.

    Raises:
        ValueError: an unknown ``form``, or negative ``sigma``.
    """

    needs_class_stats = False

    def __init__(
        self,
        num_classes: int,
        class_stats: Any = None,
        *,
        form: str = "arc",
        margin: float | None = None,
        sigma: float = 0.05,
        scale: float = 64.0,
    ):
        super().__init__(num_classes, class_stats, scale=scale)
        if form not in MARGINS:
            raise ValueError(f"form must be 'arc' or 'cos', got {form!r}")
        if sigma < 0:
            raise ValueError(f"sigma must not be negative, got {sigma}")
        self.form = form
        self.margin = MARGINS[form] if margin is None else margin
        self.sigma = sigma

    def per_roi(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        label = gt_classes.unsqueeze(1)
        own = logits.gather(1, label).squeeze(1) / self.scale
        margin = self._margins(own) * (gt_classes < self.num_classes)
        if self.form == "arc":
            # Off the poles, where the arc cosine has no finite derivative.
            edge = 1 - 4 * torch.finfo(own.dtype).eps
            own = torch.cos(torch.acos(own.clamp(-edge, edge)) + margin)
        else:
            own = own - margin
        moved = logits.scatter(1, label, self.scale * own.unsqueeze(1))
        return F.cross_entropy(moved, gt_classes, reduction="none")

    def _margins(self, like: Tensor) -> Tensor:
        uniform = self.draw_uniform(len(like), like=like)
        smallest = torch.finfo(like.dtype).eps
        return self.margin + self.sigma * torch.special.ndtri(uniform.clamp(min=smallest))
