"""The page: what it holds, that it is closed to the outside, and what it refuses."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from balms_det.evaluation import evaluate_lvis
from balms_det.report import write_report
from balms_det.report.page import LIBRARY, _asset, script_json
from tests.evaluation.report_cases import make_case

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'`${alert(1)}\u2028\\",
    "<!--<script>",
]


class Page(HTMLParser):
    """Elements of a page with their attributes, and what its scripts and styles hold."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.contents, self.inside = [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag in ("script", "style")
        if self.inside:
            self.contents.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.contents[-1][2] += data

    def data(self):
        return next(json.loads(c[2]) for c in self.contents if c[1].get("id") == "data")


def page_of(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def case(tmp_path):
    return make_case(tmp_path, ["owl", "cat", "bee"], num_images=12)


def test_its_figures_are_the_evaluations(case, tmp_path):
    target = write_report(case.gt, case.runs, tmp_path / "out" / "r.html", images=case.root)
    data = page_of(target).data()
    for shown, path in zip(data["runs"], case.runs.values()):
        result = evaluate_lvis(case.gt, path, "segm")
        for name, value in result.metrics.items():
            assert shown["metrics"][name] == (None if value < 0 else round(100 * value, 1))
        for k, category in enumerate(result.per_category):
            assert shown["ap"][k] == round(100 * category.ap, 1)
            for key, row in (("pr50", 0), ("pr75", 5)):
                curve = np.zeros(101)
                curve[: len(shown[key][k])] = shown[key][k]
                np.testing.assert_allclose(curve, 100 * category.precision[row], atol=0.5)
    assert data["classes"]["names"] == ["owl", "cat", "bee"]
    assert data["classes"]["groups"] == ["r", "c", "f"]
    assert data["classes"]["instances"] == [16, 16, 16]
    assert data["dataset"]["counted"] == "evaluated"
    totals = [sum(n for row, _, n in run["confusion"] if row == 0) for run in data["runs"]]
    assert totals == [16, 16]


def test_training_counts_come_from_another_file(case, tmp_path):
    other = make_case(tmp_path / "train", ["owl", "cat", "bee"], num_images=3)
    write_report(case.gt, case.runs, tmp_path / "r.html", counts=str(other.gt))
    data = page_of(tmp_path / "r.html").data()
    assert data["classes"]["counts"] == [3, 3, 3]
    assert data["dataset"]["counted"] == "training"
    assert data["gallery"]["pictures"] == []
    assert any(shelf["total"] for shelf in data["gallery"]["shelves"])


def test_boxes_can_be_compared_instead_of_masks(case, tmp_path):
    write_report(case.gt, case.runs, tmp_path / "r.html", iou_type="bbox", images=case.root)
    data = page_of(tmp_path / "r.html").data()
    assert data["dataset"]["iou"] == "box"
    assert data["gallery"]["outlines"]
    assert data["runs"][0]["metrics"]["AP"] == round(
        100 * evaluate_lvis(case.gt, case.runs["run 0"], "bbox").metrics["AP"], 1
    )


def test_names_from_the_data_are_text_and_nothing_else(tmp_path):
    case = make_case(tmp_path, HOSTILE, num_images=4, num_runs=1)
    runs = {HOSTILE[0]: case.runs["run 0"]}
    page = page_of(write_report(case.gt, runs, tmp_path / "r.html", images=case.root))
    harmless = make_case(tmp_path / "plain", ["a", "b", "c", "d"], num_images=4, num_runs=1)
    plain = page_of(write_report(harmless.gt, harmless.runs, tmp_path / "p.html", images=tmp_path))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert page.data()["classes"]["names"] == HOSTILE
    assert page.data()["runs"][0]["name"] == HOSTILE[0]
    text = next(content for _, attrs, content in page.contents if attrs.get("id") == "data")
    assert not re.search("[<>&\u2028\u2029]", text)


def test_file_names_are_text_and_nothing_else(tmp_path):
    case = make_case(tmp_path, ["owl"], num_images=2, num_runs=1)
    hostile = case.gt.rename(tmp_path / "<img src=x onerror=alert(1)>&\"'.json")
    page = page_of(write_report(hostile, case.runs, tmp_path / "r.html"))
    assert page.data()["dataset"]["name"] == hostile.name
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert "<img" not in (tmp_path / "r.html").read_text()


def test_it_runs_its_own_scripts_only_and_loads_nothing(case, tmp_path):
    page = page_of(write_report(case.gt, case.runs, tmp_path / "r.html", images=case.root))
    policy = next(a["content"] for tag, a in page.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy and "http" not in policy
    for tag, attrs, content in page.contents:
        if "type" not in attrs:  # the data are not run
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{tag}-src" in policy and f"'sha256-{digest}'" in policy
    for tag, attrs in page.elements:
        assert not set(attrs) & {"src", "style", "srcset"}, tag
        assert attrs.get("href", "#").startswith("#")
        assert tag != "link"


def test_the_script_makes_no_html_from_strings():
    from balms_det.report.page import SCRIPTS

    for name in SCRIPTS:
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in _asset(name), name


def test_the_plotting_library_names_its_licence():
    assert "MIT License" in _asset(LIBRARY)[:400]
    assert "MIT License" in _asset("chart.LICENSE.md")


def test_1203_classes_and_three_runs_fit(tmp_path):
    names = [f"class {k}" for k in range(1203)]
    case = make_case(tmp_path, names, num_images=301, num_runs=3)
    target = write_report(
        case.gt, case.runs, tmp_path / "r.html", images=case.root, max_gallery_mb=1.0, per_shelf=2
    )
    data = page_of(target).data()
    assert len(data["classes"]["names"]) == 1203
    assert 0.5e6 < len(json.dumps(data["gallery"]["pictures"])) < 1e6
    assert target.stat().st_size < 4e6
    with_picture = {s["class"] for s in data["gallery"]["shelves"] if s["examples"]}
    assert len(with_picture) > 250


def test_coco_format_without_groups_uses_the_training_counts(tmp_path):
    case = make_case(tmp_path, ["owl", "cat"], num_images=60, num_runs=1)
    content = json.loads(case.gt.read_text())
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in content["categories"]:
        del category["frequency"]
    case.gt.write_text(json.dumps(content))
    data = page_of(write_report(case.gt, case.runs, tmp_path / "r.html")).data()
    assert data["classes"]["groups"] == ["c", "c"]
    assert data["runs"][0]["metrics"]["APc"] is not None


def test_what_it_refuses(case, tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        write_report(case.gt, {}, tmp_path / "r.html")
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        write_report(case.gt, {"a": tmp_path / "gone.json"}, tmp_path / "r.html")
    with pytest.raises(FileNotFoundError, match="image root"):
        write_report(case.gt, case.runs, tmp_path / "r.html", images=tmp_path / "elsewhere")
    other = make_case(tmp_path / "other", ["owl", "dog", "bee"], num_images=3)
    with pytest.raises(ValueError, match=r"alone has 'dog'; .*alone has 'cat'"):
        write_report(case.gt, case.runs, tmp_path / "r.html", counts=str(other.gt))
    assert not (tmp_path / "r.html").exists()


def test_json_has_no_nan():
    with pytest.raises(ValueError, match="JSON"):
        script_json({"a": float("nan")})
