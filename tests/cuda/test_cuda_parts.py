"""Parts of the losses that are not reached through ``forward``: draws, memory, objects."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from balms_det.losses import ROI_FIELDS, build_box_loss
from balms_det.losses.core.functional import coarse_uniform, lowest_keys
from balms_det.modeling.roi_context import describe_rois
from tests.cuda.gpu import DEVICE, needs_cuda, no_waiting
from tests.losses.loss_fixtures import STATS, K, fix_draws

pytestmark = needs_cuda


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coarse_draws_are_uniform_and_follow_the_seed(dtype):
    like = torch.zeros(0, dtype=dtype, device=DEVICE)
    torch.manual_seed(0)
    draws = coarse_uniform((300, 401), like)
    assert draws.device.type == DEVICE.type and draws.dtype == dtype
    assert 0 < draws.min() < 1e-4 and 1 - 1e-4 < draws.max() < 1
    share = torch.histc(draws, bins=16, min=0, max=1) / draws.numel()
    torch.testing.assert_close(share, torch.full_like(share, 1 / 16), rtol=0.03, atol=0)
    torch.manual_seed(0)
    assert torch.equal(draws, coarse_uniform((300, 401), like))


def test_lowest_keys_are_those_of_the_cpu():
    generator = torch.Generator().manual_seed(0)
    keys = torch.rand(200, 5, generator=generator)
    eligible = torch.rand(200, 5, generator=generator) < 0.5
    count = torch.tensor([0, 1, 7, 50, 200])
    there = lowest_keys(*(part.to(DEVICE) for part in (keys, eligible, count)))
    assert torch.equal(there.cpu(), lowest_keys(keys, eligible, count))


def _memory_rows(device):
    torch.manual_seed(0)
    loss = build_box_loss("LOCELoss", K, STATS)
    loss.reset_classifier(nn.Linear(16, loss.num_logits))
    fix_draws(loss.to(device))
    features, labels = torch.randn(40, 16).to(device), torch.randint(0, K + 1, (40,)).to(device)

    def extra():
        loss.context = {}
        return loss.extra_rows(features, labels)

    found = [extra() for _ in range(4)]
    rows = [torch.cat(parts).float() for parts in zip(*found)]
    return loss, extra, [*rows, loss.memory.features.float(), loss.memory.stored]


def test_rows_of_the_memory_are_those_of_the_cpu():
    *_, here = _memory_rows("cpu")
    loss, extra, there = _memory_rows(DEVICE)
    for one, other in zip(there, here):
        assert torch.equal(one.cpu(), other)
    del loss.draw_uniform  # the fixed draws come from the CPU
    extra()
    with no_waiting():
        extra()


def _context(device):
    """Of RoIs of three images, the last without objects; two classes are on one object."""
    generator = torch.Generator().manual_seed(0)
    rois, targets = [], []
    for count in (5, 8, 0):
        corner = 40 * torch.rand(count, 2, generator=generator)
        objects = Instances((64, 64))
        objects.gt_boxes = Boxes(torch.cat([corner, corner + 10], dim=1).to(device))
        objects.gt_boxes.tensor[1:2] = objects.gt_boxes.tensor[:1]
        objects.gt_classes = torch.randint(0, K, (count,), generator=generator).to(device)
        matched = torch.randint(0, max(count, 1), (12,), generator=generator).to(device)
        sampled = Instances((64, 64), gt_classes=torch.full((12,), K, device=device))
        if count:
            sampled.gt_classes = objects.gt_classes[matched]
            sampled.gt_boxes = objects.gt_boxes[matched]
        rois.append(sampled)
        targets.append(objects)
    return lambda: [image.get_fields() for image in describe_rois(rois, targets, K, ROI_FIELDS)]


def test_context_of_rois_is_that_of_the_cpu():
    here, there = _context("cpu")(), _context(DEVICE)
    there()
    with no_waiting():
        found = there()
    for one, other in zip(found, here):
        for name in ROI_FIELDS:
            assert torch.equal(one[name].cpu(), other[name])
