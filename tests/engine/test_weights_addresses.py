"""``MODEL.WEIGHTS`` by address: fetched once into Detectron2's cache, read by our own reader."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from balms_det.engine import load_cfg, load_weights
from balms_det.engine.run_record import run_entry
from balms_det.engine.weights_files import local_weights
from balms_det.features.options import weights_sha256
from balms_det.utils.file_cache import file_sha256
from tests.engine.zoo import served, write_backbone, zoo_at

CONFIG = Path(__file__).parents[2] / "configs/LVISv1/mask_rcnn_R_50_FPN_softmax_rfs.yaml"
THIN = {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 16, "WIDTH_PER_GROUP": 4}
NAME = "ImageNetPretrained/MSRA/R-50.pkl"


def thin_cfg(weights):
    opts = [word for key, value in THIN.items() for word in (f"MODEL.RESNETS.{key}", str(value))]
    opts += ["MODEL.ROI_HEADS.NUM_CLASSES", "3", "MODEL.FPN.OUT_CHANNELS", "8"]
    opts += ["MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", weights]
    return load_cfg(str(CONFIG), [*opts, "DATASETS.TRAIN", "()", "DATASETS.TEST", "()"])


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    written = write_backbone(thin_cfg(""), tmp_path / "zoo" / NAME)
    with served(tmp_path / "zoo") as (address, asked), zoo_at(address):
        yield address, asked, written, tmp_path / "zoo" / NAME


@pytest.mark.parametrize("form", ["detectron2://{name}", "{address}/{name}", "catalog://{entry}"])
def test_backbone_comes_from_its_address(zoo, form):
    address, asked, written, _ = zoo
    entry = "ImageNetPretrained/MSRA/R-50"
    cfg = thin_cfg(form.format(address=address, name=NAME, entry=entry))
    model = build_model(cfg)
    load_weights(cfg, model)
    state = model.backbone.bottom_up.state_dict()
    assert torch.equal(state["stem.conv1.weight"], torch.from_numpy(written["conv1_w"]))
    last = torch.from_numpy(written["res5_2_branch2c_bn_s"])
    assert torch.equal(state["res5.2.conv3.norm.weight"], last)
    load_weights(cfg, build_model(cfg))
    assert len(asked) == 1  # the second time it was in the cache


@pytest.mark.parametrize("name", ["detectron2://none.pkl", "{address}/none.pkl"])
def test_what_cannot_be_fetched_says_where_to_put_it(zoo, name):
    address = zoo[0]
    with pytest.raises(FileNotFoundError, match=r"MODEL\.WEIGHTS: .*none\.pkl") as raised:
        local_weights(name.format(address=address))
    assert f"fetch {address}/none.pkl elsewhere and put it at " in str(raised.value)
    place = Path(str(raised.value).rsplit(" put it at ", 1)[1])
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"by hand")
    assert Path(local_weights(name.format(address=address))).read_bytes() == b"by hand"


def test_entry_that_the_catalog_does_not_list():
    with pytest.raises(FileNotFoundError, match="catalog does not list it"):
        local_weights("catalog://ImageNetPretrained/none")


@pytest.mark.parametrize("name", ["none.pth", "s4://bucket/none.pth", "."])
def test_other_names_that_lead_nowhere(name):
    with pytest.raises(FileNotFoundError, match=r"MODEL\.WEIGHTS: there is no file"):
        local_weights(name)


def test_record_and_digest_of_weights_by_address(zoo):
    weights = f"detectron2://{NAME}"
    digest = file_sha256(zoo[3])
    assert weights_sha256(weights) == digest
    entry = run_entry(thin_cfg(weights))["weights"]
    assert (entry["file"], entry["sha256"]) == (weights, digest)


def test_annotations_and_images_by_address(tmp_path, monkeypatch):
    from balms_det.annotations.images import locate_images
    from balms_det.data import ClassStats

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    files = tmp_path / "files"
    files.mkdir()
    image = {"id": 1, "file_name": "a.png", "width": 8, "height": 8}
    annotation = {"id": 1, "image_id": 1, "category_id": 5, "bbox": [0, 0, 4, 4]}
    content = {"images": [image], "categories": [{"id": 5, "name": "owl"}]}
    (files / "train.json").write_text(json.dumps(content | {"annotations": [annotation]}))
    (files / "a.png").write_bytes(b"a picture")
    with served(files) as (address, _):
        stats = ClassStats.from_file(f"{address}/train.json")
        assert locate_images("own", [image], address, "coco") == [f"{address}/a.png"]
        with pytest.raises(FileNotFoundError, match="no image file"):
            locate_images("own", [{**image, "file_name": "b.png"}], address, "coco")
    assert (stats.names, stats.image_count.tolist()) == (("owl",), [1])
