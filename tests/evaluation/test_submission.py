"""Submission files: written to be accepted, checked to say everything that is wrong."""

import json
import zipfile

import numpy as np
import pytest

from balms_det.annotations.masks import mask_to_rle
from balms_det.evaluation.results.read import ResultsError
from balms_det.evaluation.submission import check_submission, write_submission

DATASET = {
    "images": [{"id": i, "height": 20, "width": 30} for i in (3, 1, 2)],
    "categories": [{"id": k} for k in (4, 8)],
}


def rle(seed=0, shape=(20, 30)):
    code = mask_to_rle(np.random.default_rng(seed).random(shape) < 0.3)
    return {"size": code["size"], "counts": code["counts"].decode()}


def entry(**changes):
    own = {"image_id": 1, "category_id": 8, "bbox": [1.25, 2, 3, 4], "score": 0.5}
    return {**own, "segmentation": rle(), **changes}


def crowded(count):
    return [entry(score=n / count) for n in range(count)]


def test_a_written_file_has_no_fault_and_the_same_numbers(tmp_path):
    results = [entry(image_id=3, note="x"), entry(score=0.1), entry(score=0.123456789)]
    for name in ("out.json", "out.zip"):
        written = write_submission(DATASET, results, tmp_path / name)
        assert (written.entries, written.images, written.empty_images) == (3, 2, 1)
        assert check_submission(DATASET, tmp_path / name) == []
    content = json.loads((tmp_path / "out.json").read_text())
    assert content == [entry(score=0.123456789), entry(score=0.1), entry(image_id=3)]
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == ["out.json"]
        assert json.loads(archive.read("out.json")) == content


def test_the_same_predictions_give_the_same_zip(tmp_path):
    files = [tmp_path / "a" / "s.zip", tmp_path / "b" / "s.zip"]
    for file in files:
        write_submission(DATASET, crowded(5), file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_best_300_of_an_image_stay(tmp_path):
    results = crowded(310)
    assert [problem.count for problem in check_submission(DATASET, results)] == [10]
    written = write_submission(DATASET, results, tmp_path / "s.json")
    assert written.entries == 300 and written.left_out[0].count == 10
    kept = [entry["score"] for entry in json.loads((tmp_path / "s.json").read_text())]
    assert kept == sorted((n / 310 for n in range(10, 310)), reverse=True)
    assert check_submission(DATASET, results, rule="fixed") == []


def test_boxes_alone(tmp_path):
    boxes = [{k: v for k, v in entry().items() if k != "segmentation"}]
    write_submission(DATASET, boxes, tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text()) == boxes


BROKEN = {**rle(), "counts": rle()["counts"][:-3]}


def test_every_fault_is_listed(tmp_path):
    results = [
        entry(image_id=9),
        entry(score=None),
        entry(segmentation=BROKEN),
        entry(segmentation=rle(shape=(30, 20))),
        entry(bbox=[1, 2, -3, 4]),
        entry(),
        entry(),
    ]
    texts = [problem.text for problem in check_submission(DATASET, results)]
    words = ("image_id", "score", "add up", "another (height", "negative", "there twice")
    assert len(texts) == 6 and all(word in text for word, text in zip(words, texts))
    with pytest.raises(ResultsError, match="entry 0"):
        write_submission(DATASET, results, tmp_path / "s.json")
    written = write_submission(DATASET, results, tmp_path / "s.json", lenient=True)
    assert written.entries == 1 and len(written.left_out) == 6


def test_nothing_to_submit(tmp_path):
    with pytest.raises(ResultsError, match="empty"):
        check_submission(DATASET, [])
    with pytest.raises(ResultsError, match="no entry is left"):
        write_submission(DATASET, [], tmp_path / "s.json")
    with pytest.raises(ValueError, match=r"a \.json or a \.zip"):
        write_submission(DATASET, [entry()], tmp_path / "s.txt")
