"""A hook that seeds every training step, so that a step does not depend on those before it."""

from detectron2.engine import HookBase
from detectron2.utils import comm

from balms_det.data.randomness import derived_seed, seed_generators


class SeedEveryStep(HookBase):
    """Seeds the global generators, CUDA's included, from the seed, the rank and the iteration.

    What a model draws in a step (the RoIs it samples, dropout) is then the same whether or not the
    run was resumed, or evaluated something in between. Register it first; it fits every trainer.

    Args:
        seed: not negative.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def before_step(self):
        seed_generators(derived_seed("step", self.seed, comm.get_rank(), self.trainer.iter))
