"""From images, folders and videos to pictures of what was found."""

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances

from balms_det.engine import LongTailPredictor, LongTailTrainer
from balms_det.workflows.draw import frequency_metadata
from balms_det.workflows.predict import draw_images, draw_video, image_files, training_metadata

ROOT = Path(__file__).parents[2]
METADATA = frequency_metadata(["ant", "bee"], ["r", "f"])


def _predict(image):
    """A stand-in for a model: one detection, and only on images whose first pixel is blue (BGR)."""
    found = Instances(image.shape[:2])
    count = int(image[0, 0].argmax() == 0)
    found.pred_boxes = Boxes(torch.tensor([[4.0, 4, 20, 20]] * count).reshape(-1, 4))
    found.scores = torch.full((count,), 0.9)
    found.pred_classes = torch.zeros(count, dtype=torch.long)
    return {"instances": found}


def _image(path, colour=(200, 10, 10), size=(32, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), colour, np.uint8))
    return path


def test_images_and_folders_become_files(tmp_path):
    single = _image(tmp_path / "single.png")
    second, first = (_image(tmp_path / "folder" / name) for name in ("b.jpg", "a.PNG"))
    (tmp_path / "folder" / "notes.txt").touch()
    assert image_files([str(single), str(tmp_path / "folder")]) == [single, first, second]


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no image .* in"):
        image_files([str(tmp_path)])
    with pytest.raises(FileNotFoundError, match=r"no image or folder .*x\.jpg"):
        image_files([str(tmp_path / "x.jpg")])


def test_pictures_are_written_under_the_images_names(tmp_path):
    files = [_image(tmp_path / "blue.png"), _image(tmp_path / "red.jpg", (10, 10, 200))]
    written = list(draw_images(files, tmp_path / "out", _predict, METADATA))
    assert [(path.name, len(found)) for path, found in written] == [("blue.png", 1), ("red.png", 0)]
    blue, red = (cv2.imread(str(path)) for path, _ in written)
    assert blue.shape == (32, 48, 3)
    assert not (blue == (200, 10, 10)).all()  # something is drawn on it
    assert np.abs(red.astype(int) - (10, 10, 200)).max() < 8  # as it was, but for the JPEG


def test_equal_names_in_two_folders_do_not_overwrite_each_other(tmp_path):
    files = [_image(tmp_path / folder / "a.png") for folder in ("x", "y")]
    written = [path.name for path, _ in draw_images(files, tmp_path / "out", _predict, METADATA)]
    assert written == ["x_a_png.png", "y_a_png.png"]
    with pytest.raises(ValueError, match="have the same name"):
        list(draw_images([files[0], files[0]], tmp_path / "out", _predict, METADATA))


def test_a_file_that_is_no_image_is_an_error(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        list(draw_images([broken], tmp_path, _predict, METADATA))


def test_a_video_is_drawn_frame_by_frame(tmp_path):
    video = tmp_path / "in.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"mp4v"), 5, (48, 32))
    for colour in ((200, 10, 10), (10, 10, 200), (200, 10, 10)):
        writer.write(np.full((32, 48, 3), colour, np.uint8))
    writer.release()
    out = tmp_path / "made" / "out.mp4"
    assert [len(found) for found in draw_video(video, out, _predict, METADATA)] == [1, 0, 1]
    drawn = cv2.VideoCapture(str(out))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and drawn.get(cv2.CAP_PROP_FPS) == 5
    assert [file.name for file in out.parent.iterdir()] == ["out.mp4"]


def test_a_file_that_is_no_video_is_an_error_and_writes_nothing(tmp_path):
    source = tmp_path / "in.mp4"
    source.write_text("no video")
    with pytest.raises(ValueError, match=r"in\.mp4 is not a video"):
        list(draw_video(source, tmp_path / "out.mp4", _predict, METADATA))
    with pytest.raises(ValueError, match=r"out\.avi has another ending"):
        list(draw_video(source, tmp_path / "out.avi", _predict, METADATA))
    assert [file.name for file in tmp_path.iterdir()] == ["in.mp4"]


@pytest.fixture(scope="module")
def trained(make_cfg, tmp_path_factory):
    """Config of a model with random weights on file, which are a softmax classifier's."""
    folder = tmp_path_factory.mktemp("demo")
    cfg = make_cfg("stage1.yaml", folder)
    model = LongTailTrainer.build_model(cfg)
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    return cfg, str(folder / "model.pth")


def _with(cfg, **keys):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = keys["weights"]
    cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS.NAME = keys["loss"]
    return cfg


def test_predicts_as_default_predictor(trained, icons):
    cfg = _with(trained[0], weights=trained[1], loss="SoftmaxLoss")
    image = cv2.imread(str(next((icons / "val").glob("*.jpg"))))
    one, other = (kind(cfg)(image)["instances"] for kind in (LongTailPredictor, DefaultPredictor))
    assert len(one) > 0
    for name, value in other.get_fields().items():
        expected = one.get(name)
        assert torch.equal(getattr(value, "tensor", value), getattr(expected, "tensor", expected))
    metadata = training_metadata(cfg)
    assert len(metadata.thing_classes) == 6
    assert {name[-3:] for name in metadata.thing_classes} <= {"(r)", "(c)", "(f)"}


def test_a_classifier_of_another_kind_is_converted(trained):
    predictor = LongTailPredictor(_with(trained[0], weights=trained[1], loss="SigmoidLoss"))
    weights = torch.load(trained[1])["model"]["roi_heads.box_predictor.cls_score.weight"]
    converted = predictor.model.roi_heads.box_predictor.cls_score.weight
    assert torch.equal(converted, weights[:-1] - weights[-1:])


def _run_tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["demo.py", *arguments])
    return runpy.run_path(str(ROOT / "tools" / "demo.py"))["main"]()


def test_the_tool_draws_pictures(trained, small_options, icons, tmp_path, monkeypatch, capsys):
    config = str(ROOT / "configs" / "quickstart" / "stage1.yaml")
    arguments = ["--config-file", config, "--input", f"{icons}/val", "--output", f"{tmp_path}/out"]
    without_threshold = small_options[: small_options.index("MODEL.ROI_HEADS.SCORE_THRESH_TEST")]
    options = [*without_threshold, "MODEL.WEIGHTS", trained[1]]
    assert _run_tool(monkeypatch, *arguments, "--confidence-threshold", "0", *options) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
    assert capsys.readouterr().out.count(" detections") == 4
    options[-1] = "nowhere.pth"
    assert _run_tool(monkeypatch, *arguments, *options) == 1
    assert "nowhere.pth" in capsys.readouterr().err
