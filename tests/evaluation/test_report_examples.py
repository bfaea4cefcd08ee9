"""Which examples are shown, and what they look like."""

import io
import re
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image

from balms_det.evaluation.ground_truth import read_ground_truth
from balms_det.evaluation.results.read import read_detections
from balms_det.report.examples import in_turn, run_shelves, truth_shelves
from balms_det.report.gallery import (
    GRID,
    PIXELS,
    GalleryMaker,
    box_path,
    crop_region,
    encode_crop,
    grid_size,
    mask_path,
    read_picture,
)
from balms_det.report.matching import match
from tests.evaluation.report_cases import SIDE, make_case, rectangle


def numbers(path):
    return [int(n) for n in re.findall(r"-?\d+", path)]


@pytest.fixture
def case(tmp_path):
    case = make_case(tmp_path, ["owl", "cat", "bee"], num_images=12)
    truth = read_ground_truth(case.gt, masks=True)
    runs = []
    for path in case.runs.values():
        detections = read_detections(path, truth, "segm").measured()
        runs.append((detections, match(truth, detections)))
    shelves = truth_shelves(truth, limit=4)
    for index, run in enumerate(runs):
        shelves += run_shelves(truth, *run, index, limit=4)
    paths = [str(tmp_path / "val" / "picture.png")] * len(truth.image_ids)
    return truth, runs, shelves, paths


def test_shelves_hold_what_their_kind_says(case):
    truth, runs, shelves, _ = case
    assert {(s.kind, s.run) for s in shelves} == {
        ("gt", -1), *((kind, run) for kind in ("tp", "fp", "miss") for run in (0, 1))
    }  # fmt: skip
    for shelf in shelves:
        assert 0 < len(shelf.examples) <= min(4, shelf.total)
        for e in shelf.examples:
            detections, matches = runs[e.run] if e.run >= 0 else (None, None)
            if e.kind in ("gt", "miss"):
                assert truth.category[e.truth] == e.category
                assert truth.image[e.truth] == e.image
            if e.kind == "miss":
                assert matches.found_by[e.truth] == -1
            if e.kind in ("tp", "fp"):
                assert detections.category[e.detection] == e.category
                assert (matches.truth_of[e.detection] >= 0) == (e.kind == "tp")
                assert matches.wrong[e.detection] == (e.kind == "fp")


def test_totals_add_up(case):
    truth, _, shelves, _ = case
    for run in (0, 1):
        total = {"tp": 0, "miss": 0}
        for shelf in shelves:
            if shelf.run == run and shelf.kind in total:
                total[shelf.kind] += shelf.total
        assert sum(total.values()) == len(truth.image)


def test_an_image_fills_no_shelf_while_others_are_there(case):
    _, _, shelves, _ = case
    for shelf in shelves:
        if shelf.kind == "gt":
            assert len({e.image for e in shelf.examples}) == len(shelf.examples)


def test_examples_come_in_turn_and_each_once(case):
    _, _, shelves, _ = case
    order = list(in_turn(shelves))
    assert sorted(map(str, order)) == sorted(str(e) for s in shelves for e in s.examples)
    assert order[: len(shelves)] == [
        s.examples[0]
        for kind in ("gt", "fp", "miss", "tp")
        for s in shelves
        if s.kind == kind
    ]  # fmt: skip


def test_the_gallery_keeps_to_its_room_and_shares_pictures(case):
    truth, runs, shelves, paths = case
    full = GalleryMaker(truth, runs, paths)
    drawn = full.draw(shelves, 10**7)
    assert len(drawn) == sum(len(s.examples) for s in shelves)
    assert len(full.album.pictures) < len(drawn)
    for entry in drawn.values():
        assert entry["c"] < len(full.album.pictures)
        assert max(entry["g"], entry["d"]) < len(full.album.outlines)
    small = GalleryMaker(truth, runs, paths)
    room = full.album.size // 2
    fewer = small.draw(shelves, room)
    largest = max(len(uri) for uri, _, _ in full.album.pictures)
    assert small.album.size <= room + largest + 2000
    assert 0 < len(fewer) < len(drawn)


def test_what_a_false_positive_and_a_miss_say_of_the_other_class(case):
    truth, runs, shelves, paths = case
    drawn = GalleryMaker(truth, runs, paths).draw(shelves, 10**7)
    said = {"fp": set(), "miss": set()}
    for example, entry in drawn.items():
        if example.kind == "fp":
            other = truth.category[example.truth] if example.truth >= 0 else -1
        elif example.kind == "miss":
            detections = runs[example.run][0]
            other = detections.category[example.detection] if example.detection >= 0 else -1
        else:
            assert "k" not in entry
            continue
        assert entry["k"] == other
        said[example.kind].add(entry["k"] >= 0)
    assert said == {"fp": {True, False}, "miss": {True, False}}


@pytest.mark.parametrize("box", [[0, 0, 5, 5], [90, 40, 30, 8], [30, 10, 60, 50], [0, 0, 120, 60]])
def test_a_region_is_square_where_the_image_allows_and_holds_the_box(box):
    x0, y0, x1, y1 = crop_region(np.array(box), height=60, width=120)
    assert 0 <= x0 <= box[0] and box[0] + box[2] <= x1 <= 120
    assert 0 <= y0 <= box[1] and box[1] + box[3] <= y1 <= 60
    assert x1 - x0 >= y1 - y0
    assert x1 - x0 == y1 - y0 or y1 - y0 == 60


def test_outlines_lie_on_the_grid():
    region = (8, 8, 56, 32)
    assert grid_size(region) == (GRID, GRID // 2)
    box = np.array([20, 14, 12, 6])
    assert numbers(box_path(box, region)) == [24, 12, 48, 12, 48, 24, 24, 24]
    corners = np.reshape(numbers(mask_path(rectangle(*box), region)), (-1, 2))
    assert np.abs(corners.min(0) - (24, 12)).max() <= 1
    assert np.abs(corners.max(0) - (48, 24)).max() <= 1
    assert mask_path(rectangle(40, 40, 8, 8), (0, 0, 20, 20)) == ""


def test_pictures_are_small_and_small_ones_keep_their_size():
    picture = Image.new("RGB", (600, 400), (200, 30, 30))
    for region, size in (((0, 0, 400, 200), (PIXELS, PIXELS // 2)), ((0, 0, 40, 40), (40, 40))):
        head, data = encode_crop(picture, region).split(",")
        assert head == "data:image/webp;base64"
        shown = Image.open(io.BytesIO(b64decode(data)))
        assert shown.size == size
        np.testing.assert_allclose(np.asarray(shown.convert("RGB"))[5, 5], (200, 30, 30), atol=8)


def test_unusable_images_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_picture(str(tmp_path / "gone.png"), (SIDE, SIDE))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png cannot be read"):
        read_picture(str(tmp_path / "text.png"), (SIDE, SIDE))
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"small\.png is 30 x 20 .* say 64 x 64"):
        read_picture(str(tmp_path / "small.png"), (SIDE, SIDE))
