"""A part of a model's state put into the model, and the state that it has then.

``nn.Module.load_state_dict(part, strict=False)`` does more than it says: a dict that is no
``state_dict()`` carries no versions, and modules take what lacks one for a file of their first
version. ``FrozenBatchNorm2d`` then sets the running statistics that the dict does not name to 0
and 1. Here what is not named is not touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

#: Of FrozenBatchNorm2d, from which on the variance is used with eps.
_CURRENT_VERSION = 3


@torch.no_grad()
def copy_into(module: nn.Module, part: Mapping[str, Tensor]) -> None:
    """Copy tensors into the parameters and buffers of the same names; others keep their values.

    Args:
        module: changed in place.
        part: any of the names of its ``state_dict()``, with tensors of the same shapes.

    Raises:
        ValueError: a name or a shape that the module does not have; nothing was copied then.
    """
    own = module.state_dict()  # shares its tensors with the module
    for name, value in part.items():
        if name not in own:
            raise ValueError(f"the model has no {name!r}: this state is of another model")
        if own[name].shape != value.shape:
            raise ValueError(
                f"{name!r} has the shape {tuple(own[name].shape)} in the model and "
                f"{tuple(value.shape)} in the state: it is of another model"
            )
    for name, value in part.items():
        own[name].copy_(value)


def state_digest(module: nn.Module) -> str:
    """SHA-256 of a module's state dict: names, types, shapes and bytes, wherever it lies."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class FrozenStatistics:
    """The statistics of a model's ``FrozenBatchNorm2d`` while part of its weights is loaded.

    Args:
        model: as it is before.
    """

    def __init__(self, model: nn.Module):
        self._layers = {
            name: (layer, layer.running_mean.clone(), layer.running_var.clone())
            for name, layer in model.named_modules()
            if isinstance(layer, FrozenBatchNorm2d)
        }

    def declare_versions(self, weights: dict) -> None:
        """Say of layers that were trained as ordinary batch normalisation that their variances are
        without eps: their own version number means something else to ``FrozenBatchNorm2d``, of
        which some releases subtract eps then."""
        versions = getattr(weights, "_metadata", None)
        if versions is None:
            return
        for name in self._layers:
            if f"{name}.num_batches_tracked" in weights and name in versions:
                versions[name] = {**versions[name], "version": _CURRENT_VERSION}

    @torch.no_grad()
    def keep_unnamed(self, missing: list[str]) -> None:
        """Put back what was reset without being named.

        Args:
            missing: names that the model has and the file had not. Statistics are not among them;
                a layer whose weight and bias are was not in the file at all.
        """
        absent = set(missing)
        for name, (layer, mean, variance) in self._layers.items():
            if {f"{name}.weight", f"{name}.bias"} <= absent:
                if not layer.running_mean.any():
                    layer.running_mean.copy_(mean)
                if (layer.running_var == 1).all():
                    layer.running_var.copy_(variance)
