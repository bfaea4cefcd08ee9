"""Several runs: their table, their files, and their labels."""

import csv
import json
import statistics

import pytest
from lvis_cases import Case

from balms_det.evaluation import evaluate_lvis
from balms_det.evaluation.results.chunks import ResultsError
from balms_det.evaluation.runs import (
    common_types,
    evaluable_types,
    evaluate_runs,
    runs_table,
    short_labels,
    write_runs,
)
from balms_det.evaluation.submission import check_submission


@pytest.fixture(scope="module")
def case():
    return Case(5)


@pytest.fixture(scope="module")
def runs(case):
    """All results, the first half of them, and the second."""
    half = len(case.results) // 2
    return [case.results, case.results[:half], case.results[half:]]


def test_mean_and_standard_deviation(case, runs, tmp_path):
    results = evaluate_runs(case.truth, runs, "bbox")
    aps = [100 * evaluate_lvis(case.truth, run, "bbox").metrics["AP"] for run in runs]
    row = runs_table(["a", "b", "c"], results).splitlines()[-1]
    assert row.startswith("| 3 runs ")
    assert f"{statistics.fmean(aps):.1f} ± {statistics.stdev(aps):.1f}" in row
    metrics_file, classes_file = write_runs(tmp_path / "new", ["a", "b", "c"], results)
    written = json.loads(metrics_file.read_text())
    assert written["results"] == ["a", "b", "c"]
    assert written["metrics"]["AP"]["values"] == aps
    assert written["metrics"]["AP"]["std"] == pytest.approx(statistics.stdev(aps))
    with classes_file.open() as file:
        classes = list(csv.DictReader(file))
    for row, *own in zip(classes, *(result.per_category for result in results)):
        defined = [100 * run.ap for run in own if run.ap >= 0]
        assert row["name"] == own[0].name
        assert row["ap"] == (str(statistics.fmean(defined)) if defined else "")


def test_one_run_has_no_spread(case, runs, tmp_path):
    results = evaluate_runs(case.truth, runs[:1], "segm")
    assert "±" not in runs_table(["a"], results)
    assert len(runs_table(["a"], results).splitlines()) == 3
    written = json.loads(write_runs(tmp_path, ["a"], results)[0].read_text())
    assert written["metrics"]["AP"]["std"] is None


def test_what_can_be_evaluated(case):
    assert evaluable_types(case.results) == ["bbox", "segm"]
    assert evaluable_types([{"bbox": [1, 2, 3, 4]}]) == ["bbox"]
    assert evaluable_types([]) == ["bbox"]


@pytest.mark.parametrize("place", [0, 1, -1])
def test_every_entry_says_what_can_be_evaluated(place, tmp_path):
    entries = [dict(entry) for entry in Case(3).results]
    del entries[place]["segmentation"]
    number = place % len(entries)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(entries))
    for results in (entries, path):
        with pytest.raises(ResultsError, match=rf"entry {number}: it has no 'segmentation', and"):
            evaluable_types(results)
        assert evaluable_types(results, lenient=True) == ["bbox", "segm"]
    assert any("segmentation" in str(p) for p in check_submission(Case(3).truth, entries))


def test_all_runs_have_masks_or_none():
    entries = Case(3).results
    boxes = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in entries]
    assert common_types([boxes, boxes]) == ["bbox"]
    for runs in ([entries, boxes], [boxes, entries, entries]):
        with pytest.raises(ResultsError, match=r"has masks and results has none.*--iou-type bbox"):
            common_types(runs)


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["out/s0/inference/r.json", "out/s1/inference/r.json"], ["s0", "s1"]),
        (["a.json", "b.json"], ["a.json", "b.json"]),
        (["out/a/r.json", "out/a/b/r.json"], ["r.json", "b/r.json"]),
        (["a/r.json"], ["a/r.json"]),
        (["a/r.json", "a/r.json"], ["a/r.json", "a/r.json"]),
        (["x/x/r.json", "x/r.json"], ["x/r.json", "r.json"]),
    ],
)
def test_labels_are_what_tells_paths_apart(paths, labels):
    assert short_labels(paths) == labels
