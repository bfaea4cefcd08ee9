"""From command line and YAML to a checked config; launching on one or many processes."""

import contextlib
import os

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup, defaults, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from balms_det.data.class_stats import check_registered
from balms_det.engine.config import load_cfg
from balms_det.engine.run_record import write_run_record
from balms_det.utils.files import WholeFiles


def setup_cfg(args) -> CfgNode:
    """Build the config of a run: defaults, YAML, command line, datasets, checks.

    Args:
        args: what ``detectron2.engine.default_argument_parser()`` parses; ``config_file`` and
            ``opts`` are read here, the rest by Detectron2's ``default_setup``. ``OUTPUT_DIR`` gets
            ``config.yaml`` and ``run.json`` (:mod:`balms_det.engine.run_record`).

    Returns:
        The frozen config, with datasets registered and ``NUM_CLASSES`` filled in.

    Raises:
        KeyError, ValueError, TypeError, OSError: what is wrong with it; the message names the key.
    """
    cfg = load_cfg(args.config_file, args.opts)
    for name in cfg.DATASETS.TEST:
        check_registered(name)  # one that is not there would be noticed after the training
    with _files_written_whole():
        default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="balms_det")
    if cfg.OUTPUT_DIR and comm.is_main_process():
        flags = {name: bool(getattr(args, name, False)) for name in ("resume", "eval_only")}
        write_run_record(cfg, **flags)
    return cfg


@contextlib.contextmanager
def _files_written_whole():
    # default_setup opens config.yaml before it makes the text: a kill would leave an empty one.
    original = defaults.PathManager
    defaults.PathManager = WholeFiles(original)
    try:
        yield
    finally:
        defaults.PathManager = original


def launch_main(main, args) -> None:
    """Run ``main(args)`` on every rank: under torchrun, or as Detectron2 launches processes."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
        return
    backend = "gloo"
    if torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"]):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"  # MODEL.DEVICE may be the CPU all the same
    torch.distributed.init_process_group(backend)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    main(args)
    # Not where main fails: this may wait for other ranks, and torchrun must see the error first.
    torch.distributed.destroy_process_group()
