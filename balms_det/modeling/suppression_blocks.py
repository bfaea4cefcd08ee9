"""How many candidates :mod:`balms_det.modeling.fast_inference` suppresses at a time.

On a CPU suppression costs by the box. On a GPU it costs by the call, of which a class that has
several candidates needs one, for a call waits for the GPU, however few boxes it has.
"""

from torch import Tensor

from balms_det.losses.feature_memory import rank_in_class
from balms_det.losses.functional import on_cpu

# With fewer candidates than this many times topk, all at once is the quickest.
MANY = 32
# So many calls at a time are few on a GPU.
CALLS = 64


def all_at_once(scores: Tensor, count: int, topk: int) -> bool:
    """Whether to suppress all ``count`` candidates of ``scores``, (R, K), together.

    A negative ``topk`` asks for all that survive.
    """
    if topk < 0 or count < MANY * topk:
        return True
    return not on_cpu(scores) and scores.shape[1] <= 2 * CALLS


def first_block(classes: Tensor, topk: int) -> int:
    """How many of the best candidates, of these (M,) classes, to begin with."""
    least = topk + topk // 4 + 1
    if on_cpu(classes):
        return least
    calls = (rank_in_class(classes) == 1).cumsum(0)
    return max(least, int((calls <= CALLS).count_nonzero()))


def next_block(scores: Tensor, seen: int, size: int, gained: int, missing: int) -> int:
    """How many follow when ``gained`` of the last ``size``, of all ``seen``, have survived.

    As many as it takes when as many of them survive as of the last; at most four times what is
    missing, for lower scores crowd less, but on a CPU few blocks are wanted too.
    """
    least = seen // 2 if on_cpu(scores) else CALLS
    return max(least, min(4 * missing, missing * size // max(gained, 1)))
