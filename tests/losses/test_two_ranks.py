"""Two ranks with half of a batch each are one process with the whole of it."""

import pytest
import torch
from loss_fixtures import ALL_LOSSES, R, fix_draws, make_batch, make_loss
from torch import distributed as dist
from torch import multiprocessing

from balms_det.losses import ContextLoss

WORLD = 2


def _train(name, rank=0, world=1):
    """Two steps and one in which the last rank has no RoI; losses, state and shapes of draws."""
    loss = make_loss(name)
    logits, labels = make_batch(loss)
    half = slice(rank * R // world, (rank + 1) * R // world)
    _show_features(loss, labels, half)
    shapes = fix_draws(loss)
    values = [loss(sign * logits[half], labels[half]).item() for sign in (1, -1)]
    rows = slice(0, R) if rank == 0 else slice(0, 0)
    loss(logits[rows], labels[rows])
    return {"values": values, "state": loss.state_dict(), "draws": shapes}


def _show_features(loss, labels, half):
    """Let a loss that keeps features see those of a batch, and of one that is split unevenly."""
    if not isinstance(loss, ContextLoss):
        return
    loss.reset_classifier(torch.nn.Linear(4, loss.num_logits))
    features = torch.randn(R, 4, generator=torch.Generator().manual_seed(2))
    for cut in (half, slice(0 if half.start == 0 else 5, R if half.stop == R else 5)):
        loss.extra_rows(features[cut], labels[cut])
        loss.context = {}


def _rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD
    )
    results = {name: _train(name, rank, WORLD) for name in ALL_LOSSES}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(_rank, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_LOSSES)
def test_two_ranks_are_one_process(name, ranks):
    single = _train(name)
    assert name != "LOCELoss" or single["state"]["memory.features"].any()
    for rank in ranks:
        assert rank[name]["state"].keys() == single["state"].keys()
        for key, expected in single["state"].items():
            torch.testing.assert_close(rank[name]["state"][key], expected, rtol=1e-12, atol=1e-14)
    # Where there are draws, each rank draws for itself.
    if make_loss(name).exact_over_ranks and not single["draws"]:
        mean = torch.tensor([rank[name]["values"] for rank in ranks]).mean(dim=0)
        torch.testing.assert_close(mean, torch.tensor(single["values"]))
