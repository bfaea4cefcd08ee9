import json
import os
import select
import signal
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from balms_det.icons import SceneStyle, generate, generate_icons
from balms_det.icons.files import frequency

pytest.importorskip("fonticon_mdi7", reason="needs fonticon-materialdesignicons7")

SMALL = {"num_classes": 8, "num_train": 24, "num_val": 8, "seed": 3}
# Repeated classes are always annotated in part only, so that the federated fields are used.
STYLE = SceneStyle(unlabelled=1.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("icons") / "set"
    return root, generate_icons(root, **SMALL, style=STYLE, workers=1)


def load(root, split):
    return json.loads((root / f"icons_lt_{split}.json").read_text())


def all_files(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_bytes_do_not_depend_on_the_number_of_processes(made, tmp_path):
    generate_icons(tmp_path / "again", **SMALL, style=STYLE, workers=2)
    assert all_files(tmp_path / "again") == all_files(made[0])


def test_another_seed_gives_another_dataset(made, tmp_path):
    other = generate_icons(tmp_path / "s", **{**SMALL, "seed": 4}, style=STYLE, workers=1)
    assert other["train"]["sha256"] != made[1]["train"]["sha256"]


def test_splits_share_no_picture(made):
    pictures = [p.read_bytes() for p in made[0].rglob("*.jpg")]
    assert len(set(pictures)) == len(pictures) == SMALL["num_train"] + SMALL["num_val"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_json_is_valid_lvis(made, split):
    content = load(made[0], split)
    images = {image["id"]: image for image in content["images"]}
    assert len(images) == SMALL[f"num_{split}"]
    assert [ann["id"] for ann in content["annotations"]] == list(
        range(1, len(content["annotations"]) + 1)
    )
    assert [cat["id"] for cat in content["categories"]] == list(range(1, 9))
    positive = {i: set() for i in images}
    for ann in content["annotations"]:
        positive[ann["image_id"]].add(ann["category_id"])
    for i, image in images.items():
        assert image["neg_category_ids"]
        assert not positive[i] & set(image["neg_category_ids"])
        assert set(image["not_exhaustive_category_ids"]) <= positive[i]
        with Image.open(made[0] / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
    assert any(image["not_exhaustive_category_ids"] for image in images.values())


@pytest.mark.parametrize("split", ["train", "val"])
def test_polygons_boxes_and_areas_agree(made, split):
    content = load(made[0], split)
    seen = {}
    for ann in content["annotations"]:
        rle = coco_mask.merge(coco_mask.frPyObjects(ann["segmentation"], 192, 192))
        mask = coco_mask.decode(rle).astype(int)
        assert coco_mask.toBbox(rle) == pytest.approx(ann["bbox"], abs=1)
        assert mask.sum() == pytest.approx(ann["area"], rel=0.02)
        seen[ann["image_id"]] = seen.get(ann["image_id"], 0) + mask
    # Visible regions do not overlap, but for a pixel or so where thinned outlines meet.
    assert sum((total > 1).sum() for total in seen.values()) < 0.001 * sum(
        (total > 0).sum() for total in seen.values()
    )


def test_frequencies_are_the_training_counts(made):
    train = load(made[0], "train")
    assert load(made[0], "val")["categories"] == train["categories"]
    for cat in train["categories"]:
        anns = [ann for ann in train["annotations"] if ann["category_id"] == cat["id"]]
        assert cat["instance_count"] == len(anns)
        assert cat["image_count"] == len({ann["image_id"] for ann in anns})
        assert cat["frequency"] == frequency(cat["image_count"])


def test_every_class_is_in_both_splits(made):
    for split in ("train", "val"):
        anns = load(made[0], split)["annotations"]
        assert {ann["category_id"] for ann in anns} == set(range(1, 9))


def test_detectron2_loads_it(made):
    from detectron2.data.datasets.lvis import load_lvis_json

    root, manifest = made
    dicts = load_lvis_json(str(root / "icons_lt_train.json"), f"{root}/")
    assert len(dicts) == SMALL["num_train"]
    assert all(os.path.isfile(record["file_name"]) for record in dicts)
    classes = {ann["category_id"] for record in dicts for ann in record["annotations"]}
    assert classes == set(range(8))
    assert sum(len(record["annotations"]) for record in dicts) == manifest["train"]["instances"]


def test_second_call_returns_at_once(made, monkeypatch):
    monkeypatch.setattr(generate, "_generate", None)
    assert generate_icons(made[0], **SMALL, style=STYLE) == made[1]


def test_other_parameters_in_the_same_folder(made):
    with pytest.raises(FileExistsError, match=r"num_val.*force"):
        generate_icons(made[0], **{**SMALL, "num_val": 9}, style=STYLE)


def test_force_replaces_and_leaves_nothing_behind(tmp_path):
    tiny = {"num_classes": 4, "num_val": 1, "workers": 1, "image_size": 96}
    generate_icons(tmp_path, num_train=4, **tiny)
    manifest = generate_icons(tmp_path, num_train=2, force=True, **tiny)
    assert manifest["train"]["images"] == len(list((tmp_path / "train").iterdir())) == 2


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        generate_icons(tmp_path, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_cut_short_leaves_no_manifest_and_can_be_made_again(made, tmp_path):
    def stop(split, done, total):
        if done == 5:
            raise KeyboardInterrupt

    root = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        generate_icons(root, **SMALL, style=STYLE, workers=1, progress=stop)
    assert not (root / "manifest.json").exists()
    assert generate_icons(root, **SMALL, style=STYLE, workers=1) == made[1]
    assert all_files(root) == all_files(made[0])


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    """They would wait for its next job for good. All processes hold a pipe open while they live."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.close(reader)
            end = partial(os.kill, os.getpid(), signal.SIGKILL)
            generate_icons(tmp_path, num_train=64, workers=2, progress=lambda *state: end())
        finally:
            os._exit(1)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    ended = bool(select.select([reader], [], [], 60)[0])
    if not ended:
        os.killpg(child, signal.SIGKILL)
    os.close(reader)
    assert ended


def test_a_lost_picture_is_noticed(tmp_path):
    tiny = {"num_classes": 4, "num_train": 3, "num_val": 1, "workers": 1, "image_size": 96}
    manifest = generate_icons(tmp_path, **tiny)
    (tmp_path / "train" / "000002.jpg").unlink()
    assert generate_icons(tmp_path, **tiny) == manifest
    assert (tmp_path / "train" / "000002.jpg").is_file()


def test_broken_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is not valid JSON"):
        generate_icons(tmp_path, **SMALL)


@pytest.mark.parametrize(
    "wrong",
    [{"num_classes": 0}, {"num_train": 0}, {"image_size": 10}, {"seed": -1}, {"workers": 0}],
)
def test_arguments_out_of_range(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        generate_icons(tmp_path / "x", **wrong)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("hue", [None, 0.3])
def test_look_alikes_are_not_told_apart_by_colour(hue):
    from balms_det.icons.drawing import draw_sprite

    def mean_color(glyph):
        sprites = (
            draw_sprite(glyph, 30, SceneStyle(), np.random.default_rng(i), hue=hue)
            for i in range(40)
        )
        return np.mean([sprite.rgb[sprite.mask].mean(0) for sprite in sprites], 0)

    assert np.abs(mean_color("cat") - mean_color("truck")).max() < 25
