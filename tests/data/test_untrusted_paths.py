"""File names of annotations stay under the image root, wherever images are read."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.lvis import register_lvis_instances
from PIL import Image

from balms_det.annotations.images import GuardedLoader, guard_datasets, leaves_root, locate_images
from balms_det.data.datasets import register_files, setup_datasets
from balms_det.report import write_report
from balms_det.utils.trust import UntrustedFileError
from balms_det.workflows.draw import draw_comparison
from balms_det.workflows.imprint import read_exemplars
from tests.data.conftest import coco_content, lvis_content
from tests.evaluation.report_cases import make_case

OUTSIDE = [
    "{}/secret.jpg",
    "../secret.jpg",
    "img/../../secret.jpg",
    "..\\secret.jpg",
    "\\\\x\\a.jpg",
]
INSIDE = ["a.jpg", "img/a.jpg", "..a/b..jpg", "./a.jpg", "a:b.jpg", "img//a.jpg"]


@pytest.fixture
def secret(tmp_path):
    """An image beside the image root, where a name that leaves the root would find it."""
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "secret.jpg")
    return tmp_path


@pytest.fixture
def registered():
    """Names to register Detectron2's datasets under, taken out again."""
    names = []
    yield names.append
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def test_names_that_leave_and_names_that_stay():
    assert all(leaves_root(name.format("/tmp")) for name in OUTSIDE)
    assert not any(leaves_root(name) for name in INSIDE)


@pytest.mark.parametrize("name", OUTSIDE)
def test_every_image_is_looked_at_and_not_only_the_first(secret, name):
    (secret / "root").mkdir()
    images = [{"id": i, "file_name": "../secret.jpg"[3:]} for i in range(40)]
    Image.new("RGB", (9, 8)).save(secret / "root" / "secret.jpg")
    images[33]["file_name"] = name.format(secret)
    with pytest.raises(UntrustedFileError, match=r"image 33 leaves the image root.*TRUST=paths"):
        locate_images("mine", images, str(secret / "root"), "coco")


def test_a_url_does_not_lead_out_either(secret):
    (secret / "root").mkdir()
    images = [{"id": 1, "coco_url": "http://x.org/../secret.jpg"}]
    with pytest.raises(UntrustedFileError, match=r"'\.\./secret\.jpg' of image 1"):
        locate_images("mine", images, str(secret / "root"), "lvis")


def test_the_guard_can_be_switched_off_and_says_so(secret, monkeypatch, caplog):
    monkeypatch.setenv("BALMS_DET_TRUST", "paths")
    (secret / "root").mkdir()
    (path,) = locate_images(
        "m", [{"id": 1, "file_name": "../secret.jpg"}], f"{secret}/root", "coco"
    )
    assert path == f"{secret}/root/../secret.jpg"
    assert "../secret.jpg" in caplog.text and "shown in reports" in caplog.text


def test_links_are_followed(secret):
    """Who fills the image root makes them, and not the annotation file."""
    (secret / "root").mkdir()
    (secret / "root" / "train2017").symlink_to(secret, target_is_directory=True)
    name = "train2017/secret.jpg"
    paths = locate_images("m", [{"id": 1, "file_name": name}], f"{secret}/root", "coco")
    assert paths == [f"{secret}/root/{name}"]


def test_exemplars_and_training_data_come_from_under_the_root(write_dataset, cfg):
    content = coco_content()
    content["images"][0]["file_name"] = "../secret.jpg"
    json_file, root = write_dataset(content)
    register_files([["paths_ours", json_file, root]])
    with pytest.raises(UntrustedFileError, match=r"secret"):
        get_detection_dataset_dicts(["paths_ours"])
    with pytest.raises(UntrustedFileError, match=r"secret"):
        read_exemplars(cfg, json_file, root, "cat")


@pytest.mark.parametrize("name", OUTSIDE[:3])
def test_coco_files_that_detectron2_loads(write_dataset, cfg, registered, secret, name):
    content = coco_content()
    content["images"][1]["file_name"] = name.format(secret)
    json_file, root = write_dataset(content)
    register_coco_instances("paths_coco", {}, json_file, root)
    registered("paths_coco")
    assert len(DatasetCatalog.get("paths_coco")) == 3  # Detectron2 sees nothing wrong in it
    cfg.DATASETS.TEST = ("paths_coco",)
    setup_datasets(setup_datasets(cfg))
    assert not isinstance(DatasetCatalog.data["paths_coco"].load, GuardedLoader)
    with pytest.raises(UntrustedFileError, match=r"paths_coco.*secret.*not under the image root"):
        DatasetCatalog.get("paths_coco")


def test_lvis_files_that_detectron2_loads(write_dataset, registered):
    pytest.importorskip("lvis")
    content = lvis_content()
    json_file, root = write_dataset(content)
    for name, url in [
        ("paths_v1_fine", "http://x/img/1.jpg"),
        ("paths_v1_bad", "http://x/../1.jpg"),
    ]:
        content["images"][0]["coco_url"] = url
        other = json_file.replace(".json", f"_{name}.json")
        with open(other, "w") as file:
            json.dump(content, file)
        register_lvis_instances(name, {}, other, f"{root}/")
        registered(name)
    guard_datasets(["paths_v1_fine", "paths_v1_bad", "no_such_dataset"])
    assert len(DatasetCatalog.get("paths_v1_fine")) == 3
    with pytest.raises(UntrustedFileError, match=r"paths_v1_bad\.json names the image"):
        DatasetCatalog.get("paths_v1_bad")


@pytest.mark.parametrize("root", ["images", "./images", "{}/images"])
def test_a_root_may_be_written_in_another_way(registered, tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    paths = [f"{tmp_path}/images/a.jpg", "images/a.jpg", "./images/b/a.jpg"]
    DatasetCatalog.register("paths_mine", lambda: [{"file_name": path} for path in paths])
    registered("paths_mine")
    MetadataCatalog.get("paths_mine").set(image_root=root.format(tmp_path), json_file="a.json")
    guard_datasets(["paths_mine"])
    assert len(DatasetCatalog.get("paths_mine")) == 3
    for wrong in ("imagesother/a.jpg", f"{tmp_path}/images/b/../../a.jpg", "a.jpg"):
        paths[0] = wrong
        with pytest.raises(UntrustedFileError, match=wrong):
            DatasetCatalog.get("paths_mine")


def test_datasets_of_python_code_are_their_own_business(registered):
    DatasetCatalog.register("paths_python", lambda: [{"file_name": "/data/a.jpg"}])
    registered("paths_python")
    guard_datasets(["paths_python"])
    assert DatasetCatalog.get("paths_python") == [{"file_name": "/data/a.jpg"}]


def test_report_and_pictures_show_nothing_from_elsewhere(tmp_path):
    case = make_case(tmp_path / "data", ["owl", "cat"], num_images=3, num_runs=1)
    (tmp_path / "data" / "val" / "picture.png").rename(tmp_path / "picture.png")
    content = json.loads(case.gt.read_text())
    for image in content["images"]:
        image["coco_url"] = "http://x/../picture.png"
    case.gt.write_text(json.dumps(content))
    with pytest.raises(UntrustedFileError, match=r"\.\./picture\.png"):
        write_report(case.gt, case.runs, tmp_path / "r.html", images=case.root)
    with pytest.raises(UntrustedFileError, match=r"\.\./picture\.png"):
        draw_comparison(case.gt, case.root, case.runs, tmp_path / "p.png")
    assert not (tmp_path / "r.html").exists() and not (tmp_path / "p.png").exists()
