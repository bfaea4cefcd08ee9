"""From command line and YAML to a checked config; launching on one or many processes."""

import contextlib
import logging
import os

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup, defaults, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from balms_det.config import add_balms_config
from balms_det.data.count_sources import check_registered
from balms_det.data.datasets import setup_datasets
from balms_det.engine.checkpoint_files import WholeFiles
from balms_det.engine.config_checks import check_values
from balms_det.engine.config_file import errors_name, merge_config_file
from balms_det.engine.run_record import write_run_record
from balms_det.modeling.authors_presets import translate_authors_keys


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


def load_cfg(config_file: str, opts: list[str] = ()) -> CfgNode:
    """:func:`setup_cfg` without logging, seeding or an output folder."""
    cfg = get_cfg()
    add_balms_config(cfg)
    if config_file:
        merge_config_file(cfg, config_file)
    merge_opts(cfg, list(opts))
    check_values(cfg)
    translate_authors_keys(cfg)
    _choose_device(cfg)
    cfg = setup_datasets(cfg)
    cfg.freeze()
    return cfg


def merge_opts(cfg: CfgNode, opts: list[str]) -> None:
    """Merge ``KEY VALUE`` pairs; unlike yacs alone, new keys of a loss's ``ARGS`` are allowed.

    Raises:
        KeyError: another key that the config does not have.
        ValueError: an odd number of words, or a value of the wrong type.
    """
    if len(opts) % 2:
        raise ValueError(f"command-line options come as KEY VALUE pairs, got {' '.join(opts)!r}")
    for key, value in zip(opts[::2], opts[1::2]):
        node, _, name = key.rpartition(".")
        parent = _node(cfg, node)
        if isinstance(parent, CfgNode) and node.endswith(".ARGS"):
            parent.setdefault(name, CfgNode._decode_cfg_value(value))
        if not isinstance(parent, CfgNode) or name not in parent:
            hint = "; words with -- go before all KEY VALUE pairs" if key.startswith("-") else ""
            raise KeyError(f"command line: the config has no key {key!r}{hint}")
    with errors_name("command line"):
        cfg.merge_from_list(opts)


def _node(cfg: CfgNode, name: str) -> object:
    """What the config has under a dotted name; None for nothing."""
    for part in name.split(".") if name else ():
        cfg = cfg.get(part) if isinstance(cfg, CfgNode) else None
    return cfg


def _choose_device(cfg: CfgNode) -> None:
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}; it must be cpu, cuda or cuda:N."
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        logging.getLogger("balms_det").warning("No CUDA device: running on the CPU.")
        cfg.MODEL.DEVICE = "cpu"
    elif device.type == "cuda" and comm.get_local_size() > torch.cuda.device_count():
        raise ValueError(
            f"{comm.get_local_size()} processes were started on a machine with "
            f"{torch.cuda.device_count()} GPU(s), and each needs one of its own. Start fewer, or "
            "set MODEL.DEVICE to cpu."
        )
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        raise ValueError(
            "SOLVER.AMP.ENABLED needs a CUDA device: Detectron2's AMP trainer does not run on the "
            "CPU. Switch it off with `SOLVER.AMP.ENABLED False`."
        )


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
