"""What meta learning exchanges between ranks; each function does nothing with a single rank."""

import torch
from torch import Tensor
from torch import distributed as dist


def num_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def join_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The (R_k,) integer rows of all ranks one after the other, and where those of this rank start.

    The numbers of rows may differ between ranks.
    """
    if num_ranks() == 1:
        return rows, 0
    own = torch.tensor([len(rows)], device=rows.device)
    lengths = [torch.empty_like(own) for _ in range(num_ranks())]
    dist.all_gather(lengths, own)
    lengths = torch.cat(lengths).tolist()
    padded = rows.new_zeros(max(lengths))
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    joined = torch.cat([part[:length] for part, length in zip(gathered, lengths)])
    return joined, sum(lengths[: dist.get_rank()])


def mean_over_ranks(tensors: list[Tensor]) -> list[Tensor]:
    """The mean of every tensor over the ranks, in one exchange."""
    if num_ranks() == 1:
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= num_ranks()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors)]
