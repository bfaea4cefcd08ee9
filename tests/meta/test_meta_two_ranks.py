"""Two ranks learn what one rank learns on the joined batch."""

from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from balms_det.losses import build_box_loss
from balms_det.meta import MetaStep, RoIBatch, Stage, build_meta_learner

K, D, R, STEPS = 5, 4, 24, 4
STATS = SimpleNamespace(
    image_count=[1, 5, 20, 90, 300], instance_count=[1, 8, 30, 200, 900], num_images=400
)


def rows(step, seed, part):
    """The share of one rank: part (k, W) is every row from k R / W to (k + 1) R / W."""
    generator = torch.Generator().manual_seed(100 * step + seed)
    features = torch.randn(R, D, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, K + 1, (R,), generator=generator)
    own = slice(part[0] * R // part[1], (part[0] + 1) * R // part[1])
    return features[own], labels[own]


def learn(name, part):
    torch.manual_seed(0)
    loss = build_box_loss("BalancedSoftmaxLoss", K, STATS).double()
    classifier = nn.Linear(D, K + 1).double()
    sgd = torch.optim.SGD(classifier.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-3)
    meta = MetaStep(build_meta_learner(name, K).double(), lr=0.05)
    trained = DistributedDataParallel(classifier) if part[1] > 1 else classifier
    for step in range(STEPS):
        features, labels = rows(step, 1, part)
        train = RoIBatch(features, trained(features), labels)
        features, labels = rows(step, 2, part)
        held = RoIBatch(features, classifier(features), labels)
        (weighted,), _ = meta([Stage(classifier, loss, train, held)], sgd)
        sgd.zero_grad()
        train.logits.backward(weighted.grad_logits)
        sgd.step()
    return meta.learner.theta.detach(), classifier.weight.detach(), classifier.bias.detach()


def run_rank(rank, folder, name):
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(learn(name, (rank, 2)), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["MetaReweighter", "MetaSampler"])
def test_two_ranks_equal_one_on_the_joined_batch(name, tmp_path):
    multiprocessing.spawn(run_rank, (str(tmp_path), name), nprocs=2)
    expected = learn(name, (0, 1))
    assert expected[0].abs().min() > 0
    for rank in range(2):
        for actual, value in zip(torch.load(tmp_path / f"{rank}.pth"), expected):
            torch.testing.assert_close(actual, value, rtol=1e-6, atol=1e-9)
