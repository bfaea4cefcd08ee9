"""The page in a real browser."""

import json
import tempfile
from pathlib import Path

import pytest

from balms_det.report import write_report
from tests.evaluation.browser import WHY_NOT, Browser
from tests.evaluation.report_cases import make_case

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

NAMES = [
    "owl",
    "cat",
    "bee",
    "ant",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
]
ROWS = "[...document.querySelectorAll('#table tbody tr')].filter((row) => !row.hidden)"
ARROW_DOWN = "\ue015"


@pytest.fixture(scope="module")
def browser():
    # Chromium keeps a socket there, whose path may have 100 characters; TMPDIR can be longer.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as scratch:
        browser = Browser(Path(scratch))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    case = make_case(folder, NAMES, num_images=30)
    train = make_case(folder / "train", NAMES, num_images=4)
    return write_report(
        case.gt, case.runs, folder / "r.html", images=case.root, counts=str(train.gt)
    )


@pytest.fixture
def opened(browser, page):
    browser.open(page)
    yield browser
    assert browser.console() == []


def column(browser, index):
    return browser.js(f"{ROWS}.map((row) => row.cells[{index}].textContent)")


def test_it_loads_without_a_word_and_without_a_request(opened):
    assert opened.text("#dataset") == "gt.json"
    assert len(column(opened, 0)) == len(NAMES)
    loaded = opened.js("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith("data:") for name in loaded)
    for canvas in ("scatter", "pr"):
        drawn = opened.js(
            f"((c) => c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
            f"(document.getElementById('{canvas}')).some((value) => value > 0)"
        )
        assert drawn
    broken = opened.js("[...document.images].filter((i) => i.complete && !i.naturalWidth).length")
    assert broken == 0


def test_columns_sort_both_ways(opened):
    for index in range(2, 6):
        for _ in range(2):
            opened.click(f"#table thead th:nth-child({index + 1}) button")
            values = [float(text) for text in column(opened, index)]
            header = f"#table thead th:nth-child({index + 1})"
            direction = opened.js(f"document.querySelector('{header}').getAttribute('aria-sort')")
            assert values == sorted(values, reverse=direction == "descending")
    opened.click("#table thead th:first-child button")
    assert column(opened, 0)[-4:] == ["ant", "bee", "cat", "owl"]


def test_search_and_groups_filter(opened):
    opened.type("#search", "BEE")
    assert column(opened, 0) == ["bee"]
    assert opened.text("#shown") == "1 of 6 classes"
    opened.type("#search", " ")
    opened.click("#groups button:nth-child(2)")
    assert sorted(column(opened, 0)) == sorted([NAMES[1], NAMES[4]])
    opened.click("#groups button:nth-child(2)")
    assert opened.text("#shown") == "6 classes"


def test_a_click_on_a_row_shows_its_class(opened):
    opened.type("#search", "ant")
    opened.click("#table tbody tr:not([hidden])")
    assert opened.text("#detail-head .name span") == "ant"
    assert opened.js("location.hash") == "#class=4"
    assert opened.js("Chart.getChart('pr').data.datasets.length") == 2
    curve = opened.js("Chart.getChart('pr').data.datasets[1].data.map((point) => point.y)")
    expected = opened.js("RUNS[1].pr50[3]")
    assert curve[: len(expected)] == expected
    assert opened.js("document.querySelectorAll('.shelf.gt .tile').length") == 6


def test_a_click_on_a_point_shows_its_class(opened):
    target = opened.js(
        "(() => { const c = Chart.getChart('scatter'); const set = c.data.datasets[0];"
        " const p = c.getDatasetMeta(0).data[0]; return [p.x, p.y, set.data[0].index]; })()"
    )
    opened.click_at("#scatter", *target[:2])
    # Points may lie on each other: the class that is shown stands at the same place.
    shown = opened.js("[CLASSES.counts[state.class], RUNS[1].ap[state.class]]")
    point = opened.js(f"[CLASSES.counts[{target[2]}], RUNS[1].ap[{target[2]}]]")
    assert shown[0] == point[0] and abs(shown[1] - point[1]) < 3


def test_arrow_keys_move_on(opened):
    first = column(opened, 0)
    opened.click("#table tbody tr:nth-child(2)")
    opened.press("#table tbody tr:nth-child(2)", ARROW_DOWN)
    assert opened.text("#detail-head .name span") == first[2]


def test_the_run_can_be_changed(opened):
    opened.click("#runs button:first-child")
    assert set(column(opened, 6)) == {"±0.0"}
    opened.click("#scatter-mode button:last-child")
    assert opened.text("#scatter-title") == "Change of AP against training images"
    heights = opened.js("Chart.getChart('scatter').data.datasets[0].data.map((point) => point.y)")
    assert set(heights) == {0}


def test_a_picture_opens_and_closes(opened):
    opened.click(".shelf.gt .tile")
    assert opened.js("document.getElementById('viewer').open")
    assert "Ground truth, image" in opened.text("#viewer p")
    assert opened.js("document.querySelector('#viewer svg path').getBBox().width") > 0
    opened.click("#viewer button")
    assert not opened.js("document.getElementById('viewer').open")


def test_outlines_can_be_hidden(opened):
    shown = "getComputedStyle(document.querySelector('.shelf svg')).display"
    assert opened.js(shown) != "none"
    opened.click("#gallery input")
    assert opened.js(shown) == "none"


def test_an_address_names_a_class(browser, page):
    browser.open(page)
    browser.js("location.assign('#class=2')")
    assert browser.text("#detail-head .name span") == "cat"
    assert browser.console() == []


@pytest.mark.parametrize("name", NAMES[4:])
def test_hostile_names_are_shown_as_they_are(opened, name):
    opened.js(f"select({NAMES.index(name)})")
    assert opened.text("#detail-head .name span") == name
    assert name in column(opened, 0)
    opened.js("select(3)")  # class 4 is taken for it, class 5 for class 0
    assert opened.js("document.querySelectorAll('img:not([src^=\"data:\"]), script').length") == 3
    # Had one of them run, the window would be waiting for its alert to be closed.
    assert opened.js("document.readyState") == "complete"


def test_1203_classes(browser, tmp_path):
    case = make_case(tmp_path, [f"class {k}" for k in range(1203)], num_images=301, num_runs=1)
    browser.open(write_report(case.gt, case.runs, tmp_path / "r.html"))
    assert browser.text("#shown") == "1,203 classes"
    browser.type("#search", "class 11")
    assert len(column(browser, 0)) == 120
    browser.click("#groups button:first-child")
    assert len(column(browser, 0)) == 39
    browser.click("#table tbody tr:not([hidden])")
    assert browser.text("#detail-head .name span").startswith("class 11")
    points = json.loads(browser.js("JSON.stringify(Chart.getChart('scatter').data.datasets)"))
    assert sum(len(s["data"]) for s in points if s["label"] != "selected") == 1203
    assert browser.console() == []
