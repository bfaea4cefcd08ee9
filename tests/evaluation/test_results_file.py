"""Results files: what is refused, with which words, and what a lenient reading leaves."""

import gzip
import json
import logging
import zipfile

import numpy as np
import pytest

from balms_det.annotations.masks import mask_to_rle
from balms_det.evaluation.results import chunks as result_chunks
from balms_det.evaluation.results.columns import KnownIds
from balms_det.evaluation.results.read import (
    ResultsError,
    apply_limits,
    check_results,
    find_problems,
)
from balms_det.evaluation.rules import Limits

DATASET = {
    "images": [{"id": i, "height": 20, "width": 30} for i in (5, 2)],
    "categories": [{"id": k, "name": str(k)} for k in (1, 7)],
}
KEYS = ("bbox", "segmentation")
RLE = {"size": [20, 30], "counts": mask_to_rle(np.eye(20, 30, dtype=bool))["counts"].decode()}


def entry(**changes):
    fields = {"image_id": 2, "category_id": 7, "score": 0.5, "bbox": [1, 2, 3.5, 4]}
    return {**fields, "segmentation": RLE, **changes}


def without(key):
    return {name: value for name, value in entry().items() if name != key}


BAD = {
    "no object": ([1, 2], "is not an object: \\[1, 2\\]"),
    "unknown image": (entry(image_id=99), "image_id that the dataset does not list: 99"),
    "unhashable image": (entry(image_id=[2]), "image_id that the dataset does not list: \\[2\\]"),
    "unknown category": (entry(category_id=0), "category_id that the dataset does not list: 0"),
    "no image": (without("image_id"), "has no 'image_id'"),
    "no category": (without("category_id"), "has no 'category_id'"),
    "no score": (without("score"), "has no 'score'"),
    "null score": (entry(score=None), "score that is not a number: None"),
    "text score": (entry(score="0.5"), "score that is not a number: '0.5'"),
    "NaN score": (entry(score=float("nan")), "score that is not finite: nan"),
    "infinite score": (entry(score=float("inf")), "score that is not finite: inf"),
    "short box": (entry(bbox=[1, 2, 3]), "bbox that is not a list of 4 numbers: \\[1, 2, 3\\]"),
    "text box": (entry(bbox=[1, 2, 3, "4"]), "bbox that is not a list of 4 numbers"),
    "no box": ({**without("bbox"), "segmentation": None}, "has no 'bbox'|compressed RLE"),
    "NaN box": (entry(bbox=[1, 2, 3, float("nan")]), "bbox that is not finite"),
    "negative box": (entry(bbox=[9, 9, -3, 4]), "bbox of negative size: \\[9, 9, -3, 4\\]"),
    "no mask": (without("segmentation"), "has no 'segmentation'"),
    "polygons": (entry(segmentation=[[1, 1, 5, 1, 5, 5]]), "not a compressed RLE"),
    "uncompressed": (entry(segmentation={"size": [20, 30], "counts": [600]}), "compressed RLE"),
    "mask without size": (entry(segmentation={"counts": "Pb0h0"}), "not a compressed RLE"),
    "wrong mask size": (
        entry(segmentation={"size": [30, 20], "counts": "Pb0h0"}),
        "mask of another .height, width. than its image: .'mask': .30, 20., 'image': .20, 30.",
    ),
}
GOOD = [entry(image_id=5), entry(category_id=1), entry(score=1)]


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "results.json"
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.mark.parametrize("from_file", [False, True], ids=["list", "file"])
@pytest.mark.parametrize(("bad", "words"), BAD.values(), ids=BAD)
def test_a_fault_is_named_or_left_out(bad, words, from_file, write, caplog):
    results = [*GOOD, bad, entry(score=0.25)]
    results = write(results) if from_file else results
    name = "results\\.json" if from_file else "^results"
    with pytest.raises(ResultsError, match=f"{name}, entry 3: .*({words})"):
        check_results(results, DATASET, KEYS)
    with caplog.at_level(logging.WARNING):
        kept = check_results(results, DATASET, KEYS, lenient=True)
    assert kept.columns.index.tolist() == [0, 1, 2, 4]
    assert [problem.count for problem in kept.problems] == [1]
    assert "left out" in caplog.text


@pytest.mark.parametrize("from_file", [False, True], ids=["list", "file"])
def test_an_id_that_is_none_is_named_or_left_out(from_file, write):
    results = [entry(id=5), entry(id=[2]), entry(id={})]
    results = write(results) if from_file else results
    words = "entry 1: it has an id that is a list or an object: \\[2\\] .2 entries"
    with pytest.raises(ResultsError, match=words):
        check_results(results, DATASET, KEYS)
    assert check_results(results, DATASET, KEYS, lenient=True).columns.ids == [5]


def test_columns_hold_ranks_and_values():
    columns = check_results(GOOD, DATASET, KEYS).columns
    assert columns.image.tolist() == [1, 0, 0]  # ids 2 and 5
    assert columns.category.tolist() == [1, 0, 1]
    assert columns.score.tolist() == [0.5, 0.5, 1.0]
    assert columns.box.tolist() == [[1, 2, 3.5, 4]] * 3
    assert list(columns.masks) == [RLE] * 3


@pytest.mark.parametrize("kind", [int, float, np.int64, str])
def test_ids_of_any_kind_are_found(kind):
    """Whole numbers are looked up in a table, others one by one."""
    dataset = DATASET
    if kind is str:
        dataset = {**DATASET, "images": [{**i, "id": str(i["id"])} for i in DATASET["images"]]}
    found = check_results([entry(image_id=kind(5)), entry(image_id=kind(2))], dataset, ["bbox"])
    assert found.columns.image.tolist() == [1, 0]
    for wrong in (kind(3), kind(10**9)):
        with pytest.raises(ResultsError, match="entry 1: it has an image_id that the dataset"):
            check_results([entry(image_id=kind(2)), entry(image_id=wrong)], dataset, ["bbox"])


def test_masks_are_put_together_on_demand():
    big = {**DATASET, "images": [{"id": i, "height": 10 * i, "width": 30} for i in (5, 2)]}
    masks = [{"size": [10 * i, 30], "counts": f"counts {i}{n}"} for n in range(2) for i in (5, 2)]
    entries = [entry(image_id=m["size"][0] // 10, segmentation=m) for m in masks]
    column = check_results(entries, big, ["segmentation"]).columns.masks
    assert len(column) == 4 and list(column) == masks
    assert column[np.int64(2)] == masks[2] and column[1:3] == masks[1:3]
    assert column.pixels().tolist() == [1500, 600] * 2
    assert list(column.take(np.array([3, 0]))) == [masks[3], masks[0]]


def test_only_what_is_evaluated_is_needed():
    boxes = [without("segmentation"), entry(score=0.1, segmentation="none")]
    assert check_results(boxes, DATASET, ["bbox"]).columns.masks is None
    masks = [without("bbox"), entry(score=0.1, bbox=None)]
    assert check_results(masks, DATASET, ["segmentation"]).columns.box is None


def test_a_missing_box_is_that_of_the_mask():
    mask = np.zeros((20, 30), bool)
    mask[4:8, 3:9] = True
    masked = {**without("bbox"), "segmentation": mask_to_rle(mask)}
    columns = check_results([masked, entry()], DATASET, ["bbox"]).columns
    assert columns.box.tolist() == [[3, 4, 6, 4], [1, 2, 3.5, 4]]


def test_every_kind_of_fault_is_counted():
    results = [entry(score=float("nan"))] * 3 + [entry(image_id=0), *GOOD]
    found = find_problems(results, DATASET, KEYS).problems
    assert [(problem.first, problem.count) for problem in found] == [(0, 3), (3, 1)]


def test_ids_that_are_there_twice_are_an_error_and_drop_nothing():
    results = [entry(id=1), entry(id=1, score=0.7)]
    with pytest.raises(ResultsError, match="entry 1: it has an id that an earlier entry has: 1"):
        check_results(results, DATASET, KEYS)
    assert len(check_results(results, DATASET, KEYS, lenient=True).columns) == 2


def test_a_broken_mask_is_left_out_of_a_lenient_reading():
    broken = entry(score=0.7, segmentation={**RLE, "counts": "Pb0"})
    found = check_results([entry(), broken], DATASET, KEYS, lenient=True)
    assert found.columns.index.tolist() == [0]
    assert "runs do not add up" in found.problems[0].text


def test_limits_keep_the_highest_scores():
    results = [entry(score=score / 10) for score in (1, 9, 5)] + [entry(image_id=5)]
    columns, known = find_problems(results, DATASET, KEYS).columns, KnownIds.of(DATASET)
    assert apply_limits(columns, known, Limits(3)) == (columns, [])
    kept, problems = apply_limits(columns, known, Limits(2))
    assert kept.index.tolist() == [1, 2, 3]
    assert "2 highest scores of its image" in problems[0].text
    assert problems[0].example == "image 2 has 3 entries"
    kept, problems = apply_limits(columns, known, Limits(per_category=1))
    assert (problems[0].count, problems[0].example) == (3, "category 7 has 4 entries")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"annotations": []}, "must hold a list of entries, and holds a dict .*annotations"),
        ("text", "must hold a list"),
        ([], "the list is empty"),
    ],
)
def test_files_that_hold_no_entries(content, words, write):
    with pytest.raises(ResultsError, match=words):
        check_results(write(content), DATASET)


@pytest.mark.parametrize("text", ["", "[{", '[{"image_id": 2},', "[1 2]", "\xff"])
def test_broken_json_says_where(text, tmp_path):
    path = tmp_path / "cut.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ResultsError, match=r"cut\.json is not (valid json: .*line 1|a UTF-8)"):
        check_results(path, DATASET)


def test_things_that_are_no_results():
    with pytest.raises(ResultsError, match="must be a list of entries, not a dict"):
        check_results({"a": 1}, DATASET)
    with pytest.raises(FileNotFoundError, match=r"no_such\.json"):
        check_results("no_such.json", DATASET)


def test_an_empty_list_is_a_warning_where_lenient(caplog):
    assert len(check_results([], DATASET, KEYS, lenient=True).columns) == 0
    assert "the list is empty" in caplog.text


def test_compressed_files(tmp_path, write):
    text = write(GOOD).read_text()
    with gzip.open(tmp_path / "r.json.gz", "wt") as file:
        file.write(text)
    with zipfile.ZipFile(tmp_path / "r.zip", "w") as archive:
        archive.writestr("r.json", text)
    for name in ("r.json.gz", "r.zip"):
        assert len(check_results(tmp_path / name, DATASET, KEYS).columns) == 3
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.json", text)
        archive.writestr("b.json", text)
    with pytest.raises(ResultsError, match=r"one json, and holds .'a\.json', 'b\.json'"):
        check_results(tmp_path / "two.zip", DATASET, KEYS)


@pytest.mark.parametrize("size", [7, 64, 200, 1000])
@pytest.mark.parametrize("extra", [{}, {"parts": [{"a": 1}, {"b": 2}]}, {"text": "}, {"}])
def test_a_file_is_read_whole_however_it_is_cut(size, extra, write, monkeypatch):
    monkeypatch.setattr(result_chunks, "_CHUNK_BYTES", size)
    path = write([entry(score=n / 64, **extra) for n in range(40)])
    columns = check_results(path, DATASET, KEYS).columns
    assert columns.score.tolist() == [n / 64 for n in range(40)]
    assert columns.index.tolist() == list(range(40))


def test_entries_of_a_file_may_come_with_the_keys_that_are_wanted_alone(write):
    path = write([entry(score=n / 64, extra={"image_id": 3}) for n in range(4)])
    wanted = ("score", "image_id", "id")
    (chunk,) = result_chunks.result_chunks(path, wanted)
    assert [sorted(read) for read in chunk] == [["image_id", "score"]] * 4
    assert [read["score"] for read in chunk] == [n / 64 for n in range(4)]
