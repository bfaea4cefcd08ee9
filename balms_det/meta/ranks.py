"""What meta learning exchanges between ranks; each function does nothing with a single rank."""

import torch
from torch import Tensor
from torch import distributed as dist

from balms_det.losses.running_state import num_ranks


def mean_over_ranks(tensors: list[Tensor]) -> list[Tensor]:
    """The mean of every tensor over the ranks, in one exchange."""
    if num_ranks() == 1:
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= num_ranks()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors)]
