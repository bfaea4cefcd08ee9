"""Searching a calibration on a tiny dataset, and what comes out of it."""

import json
import math
from dataclasses import replace

import pytest
import torch
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads, build_model
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from balms_det.engine import LongTailTrainer, load_cfg, load_weights
from balms_det.features import CacheOptions, cache_features
from balms_det.modeling.calibration import CALIBRATION_REGISTRY
from balms_det.workflows.calibrate import SearchOptions, calibrate
from balms_det.workflows.strength_search import Trial, best_trial, choose_images

CONFIG = "stage1.yaml"


@pytest.fixture(scope="module")
def weights(make_cfg, tmp_path_factory):
    """A checkpoint: random weights, except that the classifier tells classes apart."""
    cfg = make_cfg(CONFIG, tmp_path_factory.mktemp("plain"))
    torch.manual_seed(1)
    model = build_model(cfg)
    with torch.no_grad():
        classifier = model.roi_heads.box_predictor.cls_score
        classifier.weight.normal_(std=0.3)
        classifier.bias[-1] = 1.0
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return str(path)


class GridProposals(nn.Module):
    """Boxes all over the image, so that an untrained model finds something."""

    def __init__(self, cfg, input_shape):
        super().__init__()

    def forward(self, images, features, gt_instances=None):
        return [self._grid(size) for size in images.image_sizes], {}

    def _grid(self, size):
        sides, places = torch.tensor([20.0, 30.0, 40.0]), torch.arange(0, 90, 10.0)
        side, x, y = torch.cartesian_prod(sides, places, places).T
        boxes = Boxes(torch.stack([x, y, x + side, y + side], dim=1))
        return Instances(size, proposal_boxes=boxes, objectness_logits=torch.zeros(len(boxes)))


if "GridProposals" not in PROPOSAL_GENERATOR_REGISTRY:
    PROPOSAL_GENERATOR_REGISTRY.register(GridProposals)


@pytest.fixture
def options(small_options, weights):
    proposals = ["MODEL.PROPOSAL_GENERATOR.NAME", "GridProposals"]
    limit = ["TEST.DETECTIONS_PER_IMAGE", "300"]
    return [*small_options, *proposals, *limit, "MODEL.WEIGHTS", weights]


def _search(options, out, **kwargs):
    from tests.engine.conftest import CONFIGS

    config = str(CONFIGS / CONFIG)
    fields = ("names", "strengths", "dataset", "num_images", "metric", "cache")
    search = {key: kwargs.pop(key) for key in fields if key in kwargs}
    cfg = load_cfg(config, options)
    if "cache" not in search:
        search.setdefault("dataset", cfg.DATASETS.TEST[0])
    return calibrate(cfg, out, SearchOptions(**search), config_file=config, opts=options, **kwargs)


def _evaluate(config, out):
    cfg = load_cfg(str(config), ["OUTPUT_DIR", str(out)])
    model = build_model(cfg)
    load_weights(cfg, model)
    return LongTailTrainer.test(cfg, model)["bbox"]


def test_every_calibration_is_tried_and_written_down(options, tmp_path):
    chosen = _search(options, tmp_path, num_images=3)
    scan = json.loads((tmp_path / "scan.json").read_text())
    tried = [(trial["name"], trial["strength"]) for trial in scan["trials"]]
    every = [(name, s) for name, kind in sorted(CALIBRATION_REGISTRY) for s in kind.strengths]
    assert tried == [("none", 0.0), *every]
    defined = [t["metrics"]["AP"] for t in scan["trials"] if t["metrics"]["AP"] is not None]
    assert max(defined) == chosen.metrics["AP"] == scan["chosen"]["metrics"]["AP"]
    with Image.open(tmp_path / "strength.png") as picture:
        assert picture.width > 800 and picture.height > 500
    tables = json.loads((tmp_path / "statistics.json").read_text())
    lengths = {key: len(table) for key, table in tables.items()}
    assert lengths == {"classes": 6, "fractal_dimension": 6, "logit_mean": 7, "logit_var": 7}


def test_a_cache_takes_the_place_of_the_detector(options, tmp_path, monkeypatch):
    from tests.engine.conftest import CONFIGS

    cfg = load_cfg(str(CONFIGS / CONFIG), options)
    exact = CacheOptions(purpose="eval", dtype="float32")
    cache_features(cfg, tmp_path / "cache", exact)
    tried = {"names": ["NorCal"], "strengths": [0.3, 0.6]}
    expected = _search(options, tmp_path / "run", **tried)
    monkeypatch.setattr("balms_det.workflows.calibrate.record_regions", None)
    assert _search(options, tmp_path / "cached", cache=str(tmp_path / "cache"), **tried) == expected
    scans = [json.loads((tmp_path / o / "scan.json").read_text()) for o in ("run", "cached")]
    assert scans[0] == scans[1]
    with pytest.raises(ValueError, match="either a cache or a dataset"):
        SearchOptions(cache="one", dataset="other")


@pytest.mark.parametrize("bake", [False, True])
@pytest.mark.parametrize("name", ["LogitAdjustment", "LogitNormalization", "TauNormalization"])
def test_written_config_evaluates_to_what_the_search_saw(
    options, tmp_path, name, bake, choose_last
):
    chosen = _search(options, tmp_path, names=[name], strengths=[0.5], bake=bake)
    assert chosen.name == name
    text = (tmp_path / "calibrated.yaml").read_text()
    assert (f"NAME: {name}" in text) is not bake
    assert (tmp_path / "calibrated.pth").exists() is bake
    assert chosen.metrics["AP"] > 0
    found = _evaluate(tmp_path / "calibrated.yaml", tmp_path)
    for metric in ("AP", "APr", "APc", "APf"):
        tolerance = 1e-9 if not bake else 1e-2
        value = chosen.metrics[metric]
        expected = pytest.approx(value, abs=tolerance, nan_ok=True)
        assert found[metric] == expected, metric


@pytest.fixture
def choose_last(monkeypatch):
    """Choose the last trial tried, whatever its AP: the files are to be looked at."""
    monkeypatch.setattr(
        "balms_det.workflows.calibrate.best_trial", lambda trials, metric: trials[-1]
    )


def test_nothing_is_written_into_the_config_when_nothing_helps(options, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "balms_det.workflows.calibrate.best_trial", lambda trials, metric: trials[0]
    )
    chosen = _search(options, tmp_path, names=["NorCal"], strengths=[0.5])
    assert (chosen.name, chosen.strength) == ("none", 0)
    cfg = load_cfg(str(tmp_path / "calibrated.yaml"))
    assert cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.NAME == ""


def test_arguments_of_the_config_are_kept(options, tmp_path, choose_last):
    node = "MODEL.ROI_BOX_HEAD.CALIBRATION"
    more = [f"{node}.NAME", "NorCal", f"{node}.ARGS.METHOD", "cb"]
    chosen = _search([*options, *more], tmp_path, strengths=[0.9])
    assert chosen.arguments == {"method": "cb", "gamma": 0.9}
    cfg = load_cfg(str(tmp_path / "calibrated.yaml"))
    assert cfg.MODEL.ROI_BOX_HEAD.CALIBRATION.ARGS == {"METHOD": "cb", "GAMMA": 0.9}
    with pytest.raises(ValueError, match="names the calibration 'NorCal' already"):
        _search([*options, *more], tmp_path, names=["FRACAL"])


def test_detectron2s_heads_are_exchanged_for_those_that_read_the_config(
    options, tmp_path, choose_last
):
    more = ["MODEL.ROI_HEADS.NAME", "StandardROIHeads"]
    _search([*options, *more], tmp_path, names=["NorCal"], strengths=[0.5])
    cfg = load_cfg(str(tmp_path / "calibrated.yaml"))
    assert cfg.MODEL.ROI_HEADS.NAME == "CalibratedROIHeads"


def test_bad_input(options, tmp_path):
    with pytest.raises(ValueError, match="Unknown calibration 'Norcal'"):
        _search(options, tmp_path, names=["Norcal"])
    with pytest.raises(KeyError, match="no_such_data"):
        _search(options, tmp_path, names=["NorCal"], dataset="no_such_data")
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is empty"):
        _search([*options, "MODEL.WEIGHTS", ""], tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no_such\.pth"):
        _search([*options, "MODEL.WEIGHTS", "no_such.pth"], tmp_path)


def test_heads_that_do_not_read_the_config_can_only_be_baked(options, tmp_path):
    if "HeadsOfSomebody" not in ROI_HEADS_REGISTRY:
        ROI_HEADS_REGISTRY.register(type("HeadsOfSomebody", (StandardROIHeads,), {}))
    more = ["MODEL.ROI_HEADS.NAME", "HeadsOfSomebody"]
    with pytest.raises(ValueError, match=r"HeadsOfSomebody does not read.*--bake"):
        _search([*options, *more], tmp_path, names=["NorCal"])
    _search([*options, *more], tmp_path, names=["NorCal"], strengths=[0.5], bake=True)


def test_images_with_rare_classes_come_first():
    dicts = [{"annotations": [{"category_id": c}]} for c in (0, 1, 0, 1, 1)] + [{}]
    chosen = choose_images(dicts, ["r", "f"], 3)
    assert [record in chosen for record in (dicts[0], dicts[2])] == [True, True]
    assert len(chosen) == 3
    assert choose_images(dicts, ["r", "f"], 3) == chosen
    assert choose_images(dicts, ["r", "f"], 0) == dicts == choose_images(dicts, ["r", "f"], 99)


def test_the_weakest_of_equals_is_chosen():
    plain = Trial("none", 0.0, metrics={"AP": 1.0})
    assert best_trial([Trial("NorCal", 0.3, metrics={"AP": 1.0}), plain]) is plain
    better = Trial("NorCal", 0.3, metrics={"AP": 2.0})
    assert best_trial([plain, replace(better, strength=0.6), better]) is better
    undefined = Trial("NorCal", 0.3, metrics={"AP": math.nan})
    assert best_trial([undefined, plain]) is plain
    with pytest.raises(ValueError, match="AP is undefined on these images"):
        best_trial([undefined])
