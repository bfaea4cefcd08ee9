"""Two ranks of which one has NaN: both stop, or both leave the step out."""

import pytest
import torch
from detectron2.utils import comm
from torch import distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from balms_det.engine.non_finite import NonFiniteStepError
from tests.engine.non_finite_fixtures import NAN, At, make_trainer, spoil, train
from tests.modeling.conftest import batch, tiny_cfg  # noqa: F401


def run_rank(rank, folder, cfg, data):
    """Rank 1 has NaN in its features in iteration 1, rank 0 never."""
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    dist.barrier()
    comm.create_local_process_group(2)
    found = {}
    for skip in (True, False):
        trainer = make_trainer(cfg, data)
        detector = trainer.model
        trainer.model = DistributedDataParallel(detector, broadcast_buffers=False)
        hooks = [At([1] if rank else [], spoil(detector.backbone.fpn_output2, NAN))]
        try:
            guard = train(trainer, folder, 3, hooks, skip=skip)
            found["skipped"] = guard.skipped
            found["weight"] = detector.roi_heads.box_predictor.cls_score.weight.detach()
        except NonFiniteStepError as error:
            found["error"] = str(error)
    torch.save(found, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_decide_alike(tiny_cfg, batch, tmp_path):  # noqa: F811
    tiny_cfg.MODEL.RESNETS.NORM = "FrozenBN"
    tiny_cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = "SeesawLoss"  # has state that the ranks share
    multiprocessing.spawn(run_rank, (str(tmp_path), tiny_cfg, batch), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2))
    assert one["skipped"] == other["skipped"] == 1
    assert torch.equal(one["weight"], other["weight"]) and one["weight"].isfinite().all()
    assert all(found["error"].startswith("Iteration 1 is not finite") for found in (one, other))
    assert "a loss on another rank" in one["error"] and "loss_cls = nan" in other["error"]
    assert len(list((tmp_path / "non_finite").glob("*_rank?.pth"))) == 2
