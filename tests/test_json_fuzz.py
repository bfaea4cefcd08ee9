"""The three json readers, on documents that are damaged at random: a right answer, or the error
that the reader documents, and never another one.

``BALMS_DET_FUZZ_EXAMPLES=5000`` runs so many examples of each, others each time.
"""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balms_det.annotations.instances import load_instances
from balms_det.annotations.masks import runs_fit
from balms_det.annotations.read import AnnotationFileError
from balms_det.annotations.summary import summarize
from balms_det.evaluation.ground_truth import read_ground_truth
from balms_det.evaluation.results.chunks import ResultsError
from balms_det.evaluation.results.columns import KnownIds
from balms_det.evaluation.results.read import find_problems
from balms_det.utils.trust import UntrustedFileError
from tests.bad_input.documents import coco, lvis, results, write_images
from tests.fuzz_documents import FUZZ, damaged, damaged_bytes

ANNOTATIONS = st.one_of(damaged(lvis()), damaged(coco()), damaged_bytes(lvis()))
RESULTS = st.one_of(damaged(results()), damaged_bytes(results()))
KEYS = [["bbox"], ["segmentation"], ["bbox", "segmentation"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    write_images(folder)
    return folder


def write(folder, content):
    path = folder / "damaged.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)


def read_back(path):
    with open(path, encoding="utf-8-sig") as file:
        return json.load(file)


@FUZZ
@given(content=ANNOTATIONS)
def test_class_counts(folder, content):
    path = write(folder, content)
    try:
        summary = summarize(path)
    except AnnotationFileError as error:
        assert path in str(error)
        return
    read = read_back(path)
    things = [a for a in read.get("annotations", []) if not a.get("iscrowd")]
    instances = Counter(a["category_id"] for a in things)
    images = Counter(c for _, c in {(a["image_id"], a["category_id"]) for a in things})
    assert summary.category_ids == sorted(c["id"] for c in read["categories"])
    assert summary.instance_count == [instances[c] for c in summary.category_ids]
    assert summary.image_count == [images[c] for c in summary.category_ids]
    assert summary.num_images == len(read["images"])


@FUZZ
@given(content=ANNOTATIONS)
def test_dataset_dicts(folder, content):
    path = write(folder, content)
    try:
        records = load_instances("fuzz", path, str(folder / "images"))
    except (AnnotationFileError, FileNotFoundError, UntrustedFileError) as error:
        assert path in str(error) or "'fuzz'" in str(error)
        return
    except ValueError as error:
        assert type(error) is ValueError and "has no 'file_name'" in str(error)
        return
    classes = len(read_back(path)["categories"])
    assert len(records) == len(read_back(path)["images"])
    for record in records:
        assert record["height"] >= 1 and record["width"] >= 1
        for instance in record["annotations"]:
            assert 0 <= instance["category_id"] < classes
            assert np.isfinite(instance["bbox"]).all() and min(instance["bbox"][2:]) >= 0
            mask = instance.get("segmentation")
            assert not isinstance(mask, dict) or runs_fit([mask]).all()


@FUZZ
@given(content=ANNOTATIONS, masks=st.booleans())
def test_ground_truth(folder, content, masks):
    path = write(folder, content)
    try:
        truth = read_ground_truth(path, masks)
    except AnnotationFileError as error:
        assert path in str(error)
        return
    read = read_back(path)
    kept = [a for a in read["annotations"] if 0 < a["area"] < np.inf]
    assert [truth.image_ids[n] for n in truth.image] == [a["image_id"] for a in kept]
    assert [truth.category_ids[n] for n in truth.category] == [a["category_id"] for a in kept]
    assert truth.box.tolist() == [a["bbox"] for a in kept]
    assert not masks or runs_fit(truth.rles).all()


@FUZZ
@given(
    content=RESULTS, keys=st.sampled_from([["bbox"], ["segmentation"], ["bbox", "segmentation"]])
)
def test_results(folder, content, keys):
    path, known = write(folder, content), KnownIds.of(lvis())
    try:
        checked = find_problems(path, known, keys, decode=True, copies=True)
    except ResultsError as error:
        assert path in str(error)
        return
    read = read_back(path)
    dropped = sum(problem.count for problem in checked.problems if problem.dropped)
    assert len(checked.columns) + dropped == len(read)
    for n, index in enumerate(checked.columns.index.tolist()):
        assert checked.columns.score[n] == read[index]["score"]
        assert known.image_ids[checked.columns.image[n]] == read[index]["image_id"]
    in_memory = find_problems(read, known, keys, decode=True, copies=True)
    assert in_memory.columns.index.tolist() == checked.columns.index.tolist()
    assert in_memory.problems == checked.problems
