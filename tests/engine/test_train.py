"""The whole path on a tiny dataset: train, resume, stage 2, evaluate."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.engine import default_argument_parser

from balms_det.data.datasets import setup_datasets
from balms_det.engine import LongTailTrainer, load_weights

pytestmark = pytest.mark.slow


def train(cfg, resume=False):
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    trainer = LongTailTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def stage1(make_cfg, tmp_path_factory):
    return train(make_cfg("stage1.yaml", tmp_path_factory.mktemp("run") / "stage1"))


def weights_of(trainer):
    return f"{trainer.cfg.OUTPUT_DIR}/model_final.pth"


def test_stage_1_trains_and_is_evaluated_by_frequency(stage1):
    results = json.loads(Path(stage1.cfg.OUTPUT_DIR, "results.json").read_text())
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"} <= set(results["segm"])
    assert stage1.cfg.MODEL.ROI_HEADS.NUM_CLASSES == 6
    events = Path(stage1.cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    assert json.loads(events[-1])["segm/AP50"] == pytest.approx(results["segm"]["AP50"])


def test_training_resumes_where_it_stopped(make_cfg, tmp_path):
    train(make_cfg("stage1.yaml", tmp_path, "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()"))
    trainer = train(make_cfg("stage1.yaml", tmp_path, "DATASETS.TEST", "()"), resume=True)
    assert (trainer.start_iter, trainer.iter) == (2, 4)


@pytest.mark.parametrize("loss", ["BalancedSoftmaxLoss", "BalancedSigmoidLoss"])
def test_stage_2_moves_the_classifier_alone(make_cfg, stage1, tmp_path, loss):
    cfg = make_cfg(
        "stage2_softmax.yaml",
        tmp_path,
        *("MODEL.WEIGHTS", weights_of(stage1), "MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME", loss),
        *("DATASETS.TEST", "()"),
    )
    trainer = train(cfg)
    before = stage1.model.state_dict()
    moved = [
        name
        for name, value in trainer.model.state_dict().items()
        if name not in before or before[name].shape != value.shape or (before[name] != value).any()
    ]
    prefix = "roi_heads.box_predictor.cls_score"
    assert moved == [f"{prefix}.weight", f"{prefix}.bias"]


def test_a_trained_model_is_evaluated_again_to_the_same_figures(make_cfg, stage1, tmp_path):
    cfg = make_cfg("stage1.yaml", tmp_path, "MODEL.WEIGHTS", weights_of(stage1))
    model = LongTailTrainer.build_model(cfg)
    load_weights(cfg, model)
    again = LongTailTrainer.test(cfg, model)
    assert again["bbox"] == pytest.approx(stage1._last_eval_results["bbox"], nan_ok=True)


def test_coco_format_data_is_evaluated_too(make_cfg, stage1, icons, tmp_path):
    """The same images with ids that have gaps and without any of LVIS's keys."""
    content = json.loads((icons / "icons_lt_val.json").read_text())
    coco = {
        "images": [
            {key: image[key] for key in ("id", "file_name", "height", "width")}
            for image in content["images"]
        ],
        "categories": [
            {"id": 10 * category["id"], "name": category["name"]}
            for category in content["categories"]
        ],
        "annotations": [
            {**annotation, "category_id": 10 * annotation["category_id"], "iscrowd": 0}
            for annotation in content["annotations"]
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    name = f"{icons.name}_coco"
    cfg = make_cfg("stage1.yaml", tmp_path, "MODEL.WEIGHTS", weights_of(stage1)).clone()
    cfg.defrost()
    cfg.DATASETS.FILES = [[name, str(tmp_path / "coco.json"), str(icons)]]
    cfg.DATASETS.TEST = (name,)
    setup_datasets(cfg)
    model = LongTailTrainer.build_model(cfg)
    load_weights(cfg, model)
    found = LongTailTrainer.test(cfg, model)
    as_lvis = stage1._last_eval_results
    for key in ("AP", "AP50", "APr", "APc", "APf"):  # the same files, the same numbers
        assert found["segm"][key] == pytest.approx(as_lvis["segm"][key], nan_ok=True)


def test_stage_2_without_weights_is_an_error(make_cfg, tmp_path):
    cfg = make_cfg("stage2_softmax.yaml", tmp_path, "MODEL.WEIGHTS", "")
    with pytest.raises(ValueError, match="stage 1 checkpoint"):
        load_weights(cfg, torch.nn.Identity())


def test_missing_weights_are_named(make_cfg, tmp_path):
    cfg = make_cfg("stage1.yaml", tmp_path, "MODEL.WEIGHTS", "output/no_such.pth")
    with pytest.raises(FileNotFoundError, match=r"no_such\.pth"):
        load_weights(cfg, torch.nn.Identity())


def test_detectron2s_command_line_is_understood():
    words = ["--config-file", "a.yaml", "--eval-only", "A", "1"]
    args = default_argument_parser().parse_args(words)
    assert args.eval_only and args.opts == ["A", "1"]
