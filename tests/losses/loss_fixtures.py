"""What the contract tests of the losses share: a long tail, a batch of it, fixed draws."""

from types import SimpleNamespace

import torch

from balms_det.losses import BOX_LOSS_REGISTRY, BoxLoss, build_box_loss

K, R = 7, 24
ALL_LOSSES = sorted(name for name, _ in BOX_LOSS_REGISTRY)
STATS = SimpleNamespace(
    image_count=[1, 3, 10, 40, 100, 300, 900],
    instance_count=[1, 4, 25, 60, 300, 500, 4000],
    num_images=1000,
)


def make_loss(name, num_classes=K, stats=STATS):
    return build_box_loss(name, num_classes, stats)


def make_batch(loss, rows=R, dtype=torch.float64, labels=None):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, loss.num_logits, generator=generator, dtype=torch.float64)
    if labels is None:
        labels = torch.randint(0, loss.num_classes + 1, (rows,), generator=generator)
    return logits.to(dtype).requires_grad_(), labels


def fix_draws(loss, change=lambda draws: draws):
    """Make ``loss`` draw the same numbers at every call, after ``change`` of them.

    Returns:
        A list that grows by the shape of each draw.
    """
    shapes = []

    def draw_uniform(*shape, like):
        shapes.append(shape)
        generator = torch.Generator().manual_seed(len(shape) + sum(shape))
        return change(torch.rand(shape, generator=generator, dtype=torch.float64)).to(like)

    for module in loss.modules():
        if isinstance(module, BoxLoss):
            module.draw_uniform = draw_uniform
    return shapes
