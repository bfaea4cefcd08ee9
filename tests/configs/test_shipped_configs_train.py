"""Every YAML of configs/ is trained for an iteration from what its ``MODEL.WEIGHTS`` names.

The backbones come by ``detectron2://`` from a server on this machine, in the files and sizes of the
model zoo; stage 2 starts from what stage 1 of these same tests has left. What comes after the
backbone is narrower than in the configs, and the images are tiny.
"""

import functools
import time
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import register_all_lvis

from balms_det.engine import LongTailTrainer, load_cfg
from balms_det.icons import generate_icons
from tests.configs.lvis_layout import CLASSES, write_data
from tests.engine.zoo import caffe2_name, served, write_backbone, zoo_at

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Stage 2 last, which starts from stage 1.
NAMES = [str(path.relative_to(CONFIGS)) for path in sorted(CONFIGS.rglob("*.yaml"))]
NAMES.sort(key=lambda name: "stage2" in name)
# Of each stage one, which run in the quick tests too.
QUICK = ("LVISv1/mask_rcnn_R_50_FPN_softmax_rfs.yaml", "quickstart/stage2_meta_sampler.yaml")
NARROW = {
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 30,
}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TEST": "()",  # the end of a training evaluates: not here
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 1,
    "SOLVER.STEPS": "()",
    "SOLVER.WARMUP_ITERS": 0,
    "SEED": 1,
}
LVIS_SETS = [f"lvis_{version}_{split}" for version in CLASSES for split in ("train", "val")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The working directory, with ``datasets`` in it, and a server of backbones."""
    root = tmp_path_factory.mktemp("configs")
    write_data(root / "datasets")
    generate_icons(
        root / "datasets/icons_lt", num_classes=6, num_train=12, num_val=2, image_size=96, workers=1
    )
    saved = {name: _forget(name) for name in (*LVIS_SETS, "icons_lt_train", "icons_lt_val")}
    (root / "zoo").mkdir()
    with (
        pytest.MonkeyPatch.context() as patch,
        served(root / "zoo") as (address, _),
        zoo_at(address),
    ):
        patch.setenv("FVCORE_CACHE", str(root / "cache"))
        patch.chdir(root)
        with pytest.MonkeyPatch.context() as only_these:
            only_these.setattr(
                "detectron2.data.datasets.builtin._PREDEFINED_SPLITS_LVIS", _lvis_splits()
            )
            register_all_lvis(str(root / "datasets"))
        yield Place(root)
    for name, (load, metadata) in saved.items():
        _forget(name)
        if load is not None:
            DatasetCatalog.register(name, load)
            MetadataCatalog.get(name).set(**metadata)


def _lvis_splits():
    from detectron2.data.datasets.builtin import _PREDEFINED_SPLITS_LVIS as every

    return {
        version: {name: files for name, files in sets.items() if name in LVIS_SETS}
        for version, sets in every.items()
    }


def _forget(name):
    """Take a dataset out of the catalogs; returns its loader, None if there was none, and data."""
    load = DatasetCatalog.data.pop(name, None)
    metadata = MetadataCatalog.get(name).as_dict()
    MetadataCatalog.pop(name)
    return load, {key: value for key, value in metadata.items() if key != "name"}


class Place:
    """Trains configs, each once; stage 1 before the stage 2 that starts from it.

    Attributes:
        rows: of each config its weights, the loss, and seconds from config to the step's end.
    """

    def __init__(self, root):
        self.root, self.backbones, self.rows = root, {}, {}

    def cfg(self, name):
        options = {**SMALL, **({} if name.startswith("quickstart") else NARROW)}
        if name == "Base-LongTail-RCNN-FPN.yaml":  # the others' base, without data of its own
            options.update({"DATASETS.TRAIN": "('lvis_v1_train',)"})
        words = [str(word) for pair in options.items() for word in pair]
        return load_cfg(str(CONFIGS / name), words)

    def train(self, name, cfg=None):
        """The trainer after its iteration, and what the model was before."""
        cfg = cfg or self.cfg(name)
        weights = cfg.MODEL.WEIGHTS
        if "://" in weights:
            self.make_backbone(cfg)
        elif weights and not Path(weights).exists():
            self._make_stage1(weights)
        start = time.perf_counter()
        trainer = LongTailTrainer(cfg)
        trainer.checkpointer.save_to_disk = False  # 100 of them; those that stage 2 needs are below
        trainer.resume_or_load(resume=False)
        before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
        trainer.train()
        loss = trainer.storage.latest()["total_loss"][0]
        self.rows[name] = (weights, loss, time.perf_counter() - start)
        if cfg.OUTPUT_DIR in self.needed:
            DetectionCheckpointer(trainer.model, cfg.OUTPUT_DIR).save("model_final")
        return trainer, before

    def make_backbone(self, cfg):
        """The arrays of a config's backbone, which the server has from the first call on."""
        name = cfg.MODEL.WEIGHTS.removeprefix("detectron2://")
        if name not in self.backbones:
            self.backbones[name] = write_backbone(cfg, self.root / "zoo" / name)
        return self.backbones[name]

    def _make_stage1(self, weights):
        folder = str(Path(weights).parent)
        self.train(next(name for name in NAMES if folder == self.cfg(name).OUTPUT_DIR))

    @functools.cached_property
    def needed(self):
        """Folders of the runs that the stage 2 of others starts from."""
        weights = {self.cfg(name).MODEL.WEIGHTS for name in NAMES}
        return {str(Path(path).parent) for path in weights if path and "://" not in path}


def _params():
    return [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES]


@pytest.mark.parametrize("name", _params())
def test_a_config_trains_from_its_weights(place, name):
    cfg = place.cfg(name)
    if cfg.MODEL.DECOUPLED.ENABLED and "://" in cfg.MODEL.WEIGHTS:  # the base of others
        with pytest.raises(ValueError, match="an ImageNet backbone is not enough"):
            place.train(name, cfg)
        return
    trainer, before = place.train(name, cfg)
    if cfg.MODEL.WEIGHTS:
        held = _held(place, cfg, before)
        assert all(torch.equal(before[key], value) for key, value in held.items())
        assert len(held) > 100
    after = trainer.model.state_dict()
    trained = {key for key, p in trainer.model.named_parameters() if p.requires_grad}
    moved = {key for key in trained if not torch.equal(before[key], after[key])}
    assert any(".cls_score." in key for key in moved)
    if cfg.MODEL.DECOUPLED.ENABLED:
        assert all(".cls_score." in key for key in trained)
    else:
        assert any(key.startswith("backbone.fpn") for key in moved)


def _held(place, cfg, before):
    """What a config's weights hold for its model, but for the classifier, by the model's names."""
    if "://" not in cfg.MODEL.WEIGHTS:
        state = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
        return {key: value for key, value in state.items() if ".box_predictor" not in key}
    arrays = place.make_backbone(cfg)
    names = {key: caffe2_name(key, False) for key in before if ".bottom_up." in key}
    return {key: torch.from_numpy(arrays[name]) for key, name in names.items() if name}
