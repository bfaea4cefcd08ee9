"""Evaluator, samplers and checkpoints on two processes (gloo) do what one process does.

The losses are in tests/losses/test_two_ranks.py, the meta learner in
tests/meta/test_meta_two_ranks.py. One pair of processes serves this file.
"""

import itertools
import json

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.utils import comm
from torch import distributed as dist
from torch import multiprocessing, nn

from balms_det import add_balms_config
from balms_det.data.datasets import register_files
from balms_det.data.repeat_factors import CategoryIncidence
from balms_det.data.samplers import SAMPLER_REGISTRY
from balms_det.engine.checkpoint import RunCheckpointer
from balms_det.evaluation import LongTailEvaluator
from tests.evaluation.test_evaluator import FIRST, SECOND, content, instances

pytestmark = pytest.mark.slow
WORLD, DRAWS = 2, 200
SAMPLERS = sorted(name for name, _ in SAMPLER_REGISTRY)
# Image 1 has a frequent class, most have nothing else, a few have a rare one.
CLASSES = [[0], [0, 1], [0, 2], [0], [0, 1, 1], [], [0], [0, 1], [0], [0]]
FOUND = {1: FIRST, 2: SECOND, 4: []}  # detections by image


def evaluate(folder, images):
    """What an evaluator finds on this rank's images: its metrics, None on other ranks than 0."""
    register_files([["ranks", str(folder / "gt.json"), str(folder)]])
    evaluator = LongTailEvaluator("ranks", str(folder / f"of_{comm.get_world_size()}"))
    evaluator.reset()
    for image in images:
        outputs = [{"instances": instances(*FOUND[image])}]
        evaluator.process([{"image_id": image}], outputs)
    return evaluator.evaluate()


def draws_of(name, share):
    """(image, repeat) of this rank's first draws; the rates change half way if they can."""
    cfg = get_cfg()
    add_balms_config(cfg)
    cfg.SEED = 5
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    records = [{"annotations": [{"category_id": c} for c in classes]} for classes in CLASSES]
    sampler = SAMPLER_REGISTRY.get(name)(cfg, CategoryIncidence.from_dicts(records))
    stream, found = iter(sampler), []
    for _ in range(2):
        draws = itertools.islice(stream, DRAWS // 2 // share)
        found += [(int(draw), getattr(draw, "carried", {}).get("repeat", 0)) for draw in draws]
        if hasattr(sampler, "set_rates"):
            sampler.set_rates(torch.tensor([0.1, 0.5, 0.9]))
    return found


def checkpoint_to_resume(folder):
    """As this rank reads it: on rank 1, as on a disk of its own, the last file is still whole."""
    own = folder if comm.get_rank() == 0 else folder / "copy"
    path = RunCheckpointer(nn.Linear(2, 2), str(own)).get_checkpoint_file()
    return path.rsplit("/", 1)[1]


def run_rank(rank, folder):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    comm.create_local_process_group(WORLD)
    found = {
        "metrics": evaluate(folder, [1, 2] if rank == 0 else [4]),
        "draws": {name: draws_of(name, WORLD) for name in SAMPLERS},
        "checkpoint": checkpoint_to_resume(folder),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "gt.json").write_text(json.dumps(content(True)))
    for place in (folder, folder / "copy"):
        place.mkdir(exist_ok=True)
        checkpointer = RunCheckpointer(nn.Linear(2, 2), str(place))
        for name in ("model_0000001", "model_0000003"):
            checkpointer.save(name)
    (folder / "model_0000003.pth").write_bytes(b"half")
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    multiprocessing.spawn(run_rank, (folder,), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def test_evaluator(ranks, folder):
    single = evaluate(folder, [1, 2, 4])
    assert ranks[1]["metrics"] is None
    for task, metrics in single.items():
        assert ranks[0]["metrics"][task] == pytest.approx(metrics, rel=0, abs=0, nan_ok=True)
    assert single["segm"]["AP50"] > 0
    name = "lvis_instances_results.json"
    assert (folder / "of_2" / name).read_bytes() == (folder / "of_1" / name).read_bytes()


@pytest.mark.parametrize("name", SAMPLERS)
def test_ranks_share_the_draws_of_one(name, ranks):
    single = draws_of(name, 1)
    for rank in range(WORLD):
        assert ranks[rank]["draws"][name] == single[rank::WORLD]


def epochs(draws):
    """The whole epochs of a stream: an epoch ends where a draw comes again."""
    found = [[]]
    for draw in draws:
        if draw in found[-1]:
            found.append([])
        found[-1].append(draw)
    return found[:-1]


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "MetaTrainingSampler"])
def test_both_ranks_together_draw_an_image_as_often_as_its_factor(name, ranks):
    cfg = get_cfg()
    add_balms_config(cfg)
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    records = [{"annotations": [{"category_id": c} for c in classes]} for classes in CLASSES]
    sampler = SAMPLER_REGISTRY.get(name)(cfg, CategoryIncidence.from_dicts(records))
    factors = getattr(sampler, "repeat_factors", torch.ones(len(CLASSES))).numpy()
    both = [draw for pair in zip(*(rank["draws"][name] for rank in ranks)) for draw in pair]
    whole = epochs(both)
    assert len(whole) >= 3
    for epoch in whole:
        times = np.bincount([image for image, _ in epoch], minlength=len(CLASSES))
        assert (times >= np.floor(factors)).all() and (times <= np.ceil(factors)).all()


def test_all_ranks_resume_from_the_checkpoint_that_rank_0_has_whole(ranks):
    assert [rank["checkpoint"] for rank in ranks] == ["model_0000001.pth"] * 2
