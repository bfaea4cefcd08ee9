"""Whatever a config or a tool names may be an address that a handler of iopath's knows."""

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathHandler, PathManager

from balms_det import add_balms_config
from balms_det.annotations.images import locate_images
from balms_det.data.datasets import register_file
from balms_det.data.mapper import RepeatFactorDatasetMapper
from balms_det.engine.config import child_content, merge_config_file
from balms_det.evaluation.runs import evaluable_types
from balms_det.modeling.calibration.base import Head
from balms_det.modeling.calibration.statistics import read_tables
from balms_det.report.gallery import read_picture
from balms_det.utils.local import local_path
from balms_det.workflows.predict import image_files
from tests.engine.zoo import served

SIZE = (32, 48)


class StoreHandler(PathHandler):
    """``store://``: files of a server, which the handler of http fetches."""

    def __init__(self, server):
        super().__init__()
        self.server = server

    def _get_supported_prefixes(self):
        return ["store://"]

    def _get_local_path(self, path, force=False, **kwargs):
        return PathManager.get_local_path(self.server + path.removeprefix("store:/"), force=force)

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        return open(self._get_local_path(path), mode)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The folder behind ``store://`` and the paths that its server was asked for."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "store"
    folder.mkdir()
    with served(folder) as (server, asked):
        PathManager.register_handler(StoreHandler(server), allow_override=True)
        yield folder, asked, server
    del PathManager._path_handlers["store://"]


def write_dataset(folder):
    cv2.imwrite(str(folder / "a.png"), np.full((*SIZE, 3), 200, np.uint8))
    image = {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
    box = {"id": 1, "image_id": 1, "category_id": 5, "bbox": [4, 4, 20, 20], "area": 400}
    box["segmentation"] = [[4, 4, 24, 4, 24, 24]]
    content = {"images": [image], "categories": [{"id": 5, "name": "owl"}], "annotations": [box]}
    (folder / "train.json").write_text(json.dumps(content))
    return image


def loaded(path):
    cfg = get_cfg()
    add_balms_config(cfg)
    merge_config_file(cfg, path)
    return cfg


@pytest.mark.parametrize("scheme", ["store:/", "http"])
def test_dataset_is_registered_loaded_and_mapped(store, scheme):
    folder, _, server = store
    write_dataset(folder)
    root = server if scheme == "http" else "store:/"
    name = f"owls_by_{scheme[:5]}"
    try:
        register_file(name, f"{root}/train.json", root if scheme == "http" else "store://")
        (record,) = DatasetCatalog.get(name)
        mapped = RepeatFactorDatasetMapper(get_cfg(), is_train=False)(record)
    finally:
        DatasetCatalog.data.pop(name, None)
        MetadataCatalog.pop(name)
    assert record["file_name"].startswith(root) and len(record["annotations"]) == 1
    assert mapped["image"].shape[0] == 3 and mapped["image"].float().mean() == 200


def test_image_root_on_a_server_that_does_not_answer(store):
    image = write_dataset(store[0])
    with pytest.raises(FileNotFoundError, match=r"127\.0\.0\.1:1/a\.png' cannot be fetched"):
        locate_images("owls", [image], "http://127.0.0.1:1", "coco")


def test_annotations_that_cannot_be_fetched_say_where_a_copy_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    place = f"{tmp_path}/lvis/train.json"
    with pytest.raises(FileNotFoundError, match=f"put it at {place}"):
        register_file("owls", "http://127.0.0.1:1/lvis/train.json", str(tmp_path))


@pytest.mark.parametrize("top", ["store", "here"])
def test_config_has_its_base_at_an_address(store, tmp_path, top):
    folder = store[0]
    (folder / "bases").mkdir()
    (folder / "bases/low.yaml").write_text("SEED: 3\nSOLVER: {MAX_ITER: 7}\n")
    (folder / "mid.yaml").write_text("_BASE_: bases/low.yaml\nSOLVER: {BASE_LR: 0.5}\n")
    (folder / "top.yaml").write_text("_BASE_: mid.yaml\nSEED: 4\n")
    (tmp_path / "top.yaml").write_text("_BASE_: store://mid.yaml\nSEED: 4\n")
    cfg = loaded("store://top.yaml" if top == "store" else str(tmp_path / "top.yaml"))
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (4, 7, 0.5)


def test_local_base_of_a_config_with_another_base_at_an_address(store, tmp_path, monkeypatch):
    (store[0] / "far.yaml").write_text("SEED: 3\n")
    (tmp_path / "near.yaml").write_text("SOLVER: {MAX_ITER: 7}\n")
    (tmp_path / "top.yaml").write_text("_BASE_: [store://far.yaml, near.yaml]\n")
    monkeypatch.chdir(tmp_path)
    cfg = loaded("top.yaml")
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER) == (3, 7)


def test_base_that_cannot_be_fetched_is_named(store, tmp_path):
    (tmp_path / "top.yaml").write_text("_BASE_: store://none.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"store://none\.yaml' cannot be fetched"):
        loaded(str(tmp_path / "top.yaml"))


def test_child_of_a_config_at_an_address(tmp_path):
    content = child_content(tmp_path / "child.yaml", "store://top.yaml", ["SEED", "5"])
    assert content == {"_BASE_": "store://top.yaml", "SEED": 5}


def test_statistics_results_and_pictures(store):
    folder = store[0]
    write_dataset(folder)
    (folder / "statistics.json").write_text('{"fractal_dimension": [1.5, 1.25]}')
    (folder / "results.json").write_text('[{"image_id": 1, "segmentation": []}]')
    source = "store://statistics.json"
    (table,) = read_tables("FRACAL", source, ["fractal_dimension"], Head(num_classes=2))
    assert table.tolist() == [1.5, 1.25]
    assert evaluable_types("store://results.json") == ["bbox", "segm"]
    assert read_picture("store://a.png", SIZE).size == SIZE[::-1]
    (file,) = image_files(["store://a.png"])
    assert file.read_bytes() == (folder / "a.png").read_bytes()


def test_of_several_at_once_one_fetches(store):
    folder, asked, _ = store
    (folder / "big.bin").write_bytes(bytes(1 << 20))
    start, found = threading.Barrier(4), []

    def fetch():
        start.wait()
        found.append(Path(local_path("store://big.bin")).stat().st_size)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1 << 20] * 4 and asked == ["/big.bin"]
