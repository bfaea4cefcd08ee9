"""Every YAML of configs/ gives a model whose classifier has the size that its loss asks for."""

import functools
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from balms_det import add_balms_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(CONFIGS)) for p in FILES])
def test_config_builds(path):
    cfg = get_cfg()
    add_balms_config(cfg)
    cfg.merge_from_file(str(path))
    if not cfg.DATASETS.TRAIN or "icons_lt_train" in cfg.DATASETS.TRAIN:
        # The counts of icons_lt come with its files; those of LVIS ship with the package.
        cfg.DATASETS.TRAIN = ("lvis_v1_train",)
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1203
    cfg.MODEL.DEVICE = "meta"  # shapes without memory: the big backbones build in no time
    with torch.device("meta"):
        model = build_model(cfg)
    predictors = model.roi_heads.box_predictor
    predictors = predictors if isinstance(predictors, torch.nn.ModuleList) else [predictors]
    for predictor in predictors:
        assert predictor.cls_score.out_features == predictor.cls_loss.num_logits


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(CONFIGS)) for p in FILES])
def test_stage_2_starts_from_an_output_of_this_repository(path):
    cfg = get_cfg()
    add_balms_config(cfg)
    cfg.merge_from_file(str(path))
    if cfg.MODEL.DECOUPLED.ENABLED and not path.name.startswith("Base-"):
        assert cfg.MODEL.WEIGHTS in weights_of_this_repository()


@functools.cache
def weights_of_this_repository():
    outputs = set()
    for path in FILES:
        cfg = get_cfg()
        add_balms_config(cfg)
        cfg.merge_from_file(str(path))
        outputs.add(f"{cfg.OUTPUT_DIR}/model_final.pth")
    return outputs
