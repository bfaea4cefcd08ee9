"""run.json: what a run was made with, an entry for each start."""

import hashlib
import json
import sys
from pathlib import Path

import detectron2
import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

import balms_det
from balms_det.engine import setup_cfg
from balms_det.engine.run_record import run_entry, write_run_record

ROOT = Path(__file__).parents[2]


def entries_of(folder):
    return json.loads((folder / "run.json").read_text())


def test_it_says_what_the_run_was_made_with(make_cfg, icons, tmp_path, monkeypatch):
    weights = tmp_path / "a.pth"
    weights.write_bytes(b"weights")
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", "stage1.yaml"])
    monkeypatch.setenv("BALMS_DET_TRUST", "paths")
    cfg = make_cfg("stage1.yaml", tmp_path, "MODEL.WEIGHTS", str(weights))
    write_run_record(cfg, resume=False)
    (entry,) = entries_of(tmp_path)
    assert entry["command"] == sys.argv and entry["resume"] is False
    assert entry["environment"]["BALMS_DET_TRUST"] == "paths"
    assert entry["versions"]["torch"] == torch.__version__.split("+")[0]
    assert entry["versions"]["python"] == sys.version.split()[0]
    assert entry["versions"]["balms_det"]["version"] == balms_det.__version__
    assert entry["versions"]["detectron2"]["from"] == str(Path(detectron2.__file__).parent)
    assert entry["weights"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert CfgNode(entry["config"]).MODEL.ROI_HEADS.NUM_CLASSES == 6
    content = (icons / "icons_lt_train.json").read_bytes()
    dataset = entry["datasets"][cfg.DATASETS.TRAIN[0]]
    assert dataset["sha256"] == hashlib.sha256(content).hexdigest()
    assert dataset["size"] == len(content) and dataset["images"] == str(icons)
    assert cfg.DATASETS.TEST[0] in entry["datasets"]
    counts = entry["class_counts"]
    annotations = json.loads(content)["annotations"]
    assert sum(counts["instance_count"]) == len(annotations) and counts["num_images"] == 24
    assert len(counts["names"]) == len(counts["image_count"]) == 6


def test_its_config_makes_the_same_config(make_cfg, tmp_path):
    cfg = make_cfg("stage2_meta_sampler.yaml", tmp_path)
    write_run_record(cfg)
    again = cfg.clone()
    again.defrost()
    again.merge_from_other_cfg(CfgNode(entries_of(tmp_path)[0]["config"]))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


def test_a_resumed_run_adds_an_entry(make_cfg, tmp_path):
    cfg = make_cfg("stage1.yaml", tmp_path)
    write_run_record(cfg, resume=False)
    (first,) = entries_of(tmp_path)
    write_run_record(cfg, resume=True)
    one, other = entries_of(tmp_path)
    assert one == first and other["resume"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("content", ["[{", '{"a": 1}', ""])
def test_a_file_that_is_no_record_is_kept_aside(make_cfg, tmp_path, caplog, content):
    (tmp_path / "run.json").write_text(content)
    write_run_record(make_cfg("stage1.yaml", tmp_path))
    assert len(entries_of(tmp_path)) == 1
    assert (tmp_path / "run.json.unreadable").read_text() == content
    assert "run.json.unreadable" in caplog.text


def test_what_is_missing_is_said_and_stops_nothing(make_cfg, tmp_path):
    cfg = make_cfg("stage1.yaml", tmp_path).clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = "catalog://nowhere"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coco_2017_train",), ("no_such_dataset",)
    entry = run_entry(cfg)
    assert entry["weights"]["file"] == "catalog://nowhere"
    assert "cannot be fetched" in entry["weights"]["error"]
    assert "error" in entry["datasets"]["coco_2017_train"]
    assert "error" in entry["datasets"]["no_such_dataset"] and "error" in entry["class_counts"]
    json.dumps(entry)


def test_setting_up_a_run_writes_it(small_options, tmp_path):
    config = str(ROOT / "configs" / "quickstart" / "stage1.yaml")
    words = ["--config-file", config, "--resume", *small_options, "OUTPUT_DIR", str(tmp_path)]
    setup_cfg(default_argument_parser().parse_args(words))
    (entry,) = entries_of(tmp_path)
    assert entry["resume"] is True and entry["eval_only"] is False
    assert (tmp_path / "config.yaml").exists()
