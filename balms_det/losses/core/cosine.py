"""Classifiers whose logits are scaled cosines of feature and class weight.

Symbols: see :mod:`balms_det.losses.core.base`, and
    x       (R, D) features
    w_c     weight of output c, (D,)
    scale   factor of the cosine (the inverse of a temperature below 1)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CosineClassifier(nn.Linear):
    """``scale * cos(x, w_c) + bias_c``: neither the norm of a feature nor of a weight counts.

    A drop-in for the ``nn.Linear`` of a classifier, with its parameter names. Seesaw loss (Wang et
    al., CVPR 2021, section 3.4) trains with ``scale=20``; a bias, which the paper does not
    mention, is in its authors' code.

    Args:
        in_features: D.
        out_features: L.
        scale: factor of the cosine.
        bias: whether there is a bias.
        eps: what is added to norms, so that a feature of zeros has finite logits.

    Raises:
        ValueError: ``scale`` is not positive.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        scale: float = 20.0,
        bias: bool = False,
        eps: float = 1e-6,
    ):
        super().__init__(in_features, out_features, bias=bias)
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.scale = scale
        self.eps = eps

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, *, scale: float = 20.0, bias: bool = False
    ) -> "CosineClassifier":
        """One with the weight of ``linear``, on its device; a bias starts at zero."""
        # Its own random draw is not used: taken aside, so that the stream does not depend on it.
        with torch.random.fork_rng(devices=[]):
            cosine = cls(linear.in_features, linear.out_features, scale=scale, bias=bias)
        cosine = cosine.to(device=linear.weight.device, dtype=linear.weight.dtype)
        cosine.weight = linear.weight
        if bias:
            nn.init.zeros_(cosine.bias)
        return cosine

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(
            self._normalise(features) * self.scale, self._normalise(self.weight), self.bias
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale={self.scale}"

    def _normalise(self, rows: Tensor) -> Tensor:
        return rows / (rows.norm(dim=1, keepdim=True) + self.eps)
