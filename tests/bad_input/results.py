"""Results files, for an evaluation, a comparison and a submission."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balms_det.annotations.read import AnnotationFileError
from balms_det.evaluation import compare_results, evaluate_lvis
from balms_det.evaluation.results.chunks import ResultsError
from balms_det.evaluation.results.read import check_results
from balms_det.evaluation.submission import check_submission, write_submission
from tests.bad_input.case import Case
from tests.bad_input.documents import lvis, results, rle, write

NAN = float("nan")


def check(content: Any, name: str = "r.json") -> Callable[[Path], Any]:
    keys = ("bbox", "segmentation")
    return lambda folder: check_results(write(folder / name, content), lvis(), keys)


def second(key: str, value: Any) -> Callable[[Path], Any]:
    """The second entry with one value changed."""
    content = results()
    content[1][key] = value
    return check(content)


def without(key: str) -> Callable[[Path], Any]:
    content = results()
    del content[1][key]
    return check(content)


def mask(**changes: Any) -> Callable[[Path], Any]:
    return second("segmentation", {**rle(), **changes})


def evaluate(content: Any, iou_type: str = "segm", **options: Any) -> Callable[[Path], Any]:
    return lambda folder: evaluate_lvis(lvis(), content, iou_type, **options)


def submit(content: Any, target: str = "s.zip", gt: Any = None) -> Callable[[Path], Any]:
    return lambda folder: write_submission(gt or lvis(), content, folder / target)


def _zip(**files: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.json", content)
    return packed.getvalue()


def _damaged_zip() -> bytes:
    packed = bytearray(_zip(a=json.dumps(results())))
    packed[60] ^= 1
    return bytes(packed)


def _broken_counts() -> list[dict]:
    content = results()
    content[0]["segmentation"]["counts"] = "ab"
    return content


def _case(name: str, run: Callable, *words: str, error: type = ResultsError) -> Case:
    return Case(name, run, error, words)


GZIPPED = gzip.compress(json.dumps(results()).encode())
FILE = [
    _case(
        "missing",
        lambda f: check_results(f"{f}/no.json", lvis()),
        "no.json",
        "not exist",
        error=FileNotFoundError,
    ),
    _case(
        "a folder",
        lambda f: check_results(str(f), lvis()),
        "is a folder",
        "file inside it",
        error=FileNotFoundError,
    ),
    _case("empty", check(""), "r.json", "not valid json", "cut off"),
    _case("binary", check(bytes(range(256))), "r.json", "UTF-8"),
    _case("cut off", check(json.dumps(results())[:-9]), "r.json", "line 1, column", "cut off"),
    _case("text after the list", check(json.dumps(results()) + "x"), "r.json", "Extra data"),
    _case("a dict", check({"results": []}), "r.json", "a list of entries", "results"),
    _case("a number", check("5"), "r.json", "a list of entries"),
    _case("an empty list", check([]), "r.json", "empty", "nothing to evaluate"),
    _case("too deep", check("[" * 200_000), "r.json", "too deep"),
    _case("a number without end", check("[" + "9" * 5000 + "]"), "r.json", "5000 digits"),
    _case("not gzipped", check(json.dumps(results()), "r.json.gz"), "r.json.gz", "unpacked"),
    _case("gzip cut off", check(GZIPPED[:-20], "r.json.gz"), "r.json.gz", "unpacked", "cut off"),
    _case("not zipped", check("[]", "r.zip"), "r.zip", "not a zip file"),
    _case("zip damaged", check(_damaged_zip(), "r.zip"), "r.zip", "CRC-32"),
    _case("zip of two", check(_zip(a="[]", b="[]"), "r.zip"), "r.zip", "one json", "b.json"),
    _case("zip of none", check(_zip(), "r.zip"), "r.zip", "one json", "[]"),
    _case("no list", lambda f: check_results(5, lvis()), "a list of entries", "int"),
]
ENTRIES = [
    _case("entry a number", check([5]), "r.json, entry 0", "not an object", "--lenient"),
    _case("entry a list", check([[5]]), "entry 0", "not an object: [5]"),
    _case("no image_id", without("image_id"), "entry 1", "no 'image_id'"),
    _case("no category_id", without("category_id"), "entry 1", "no 'category_id'"),
    _case("no score", without("score"), "entry 1", "no 'score'"),
    _case("no segmentation", without("segmentation"), "entry 1", "no 'segmentation'"),
    _case("image not listed", second("image_id", 9), "entry 1", "does not list: 9"),
    _case("image id a list", second("image_id", [1]), "entry 1", "does not list"),
    _case("image id a text", second("image_id", "1"), "entry 1", "does not list: '1'"),
    _case("category not listed", second("category_id", 5), "entry 1", "category_id", "5"),
    _case("category null", second("category_id", None), "entry 1", "None"),
    _case("score a text", second("score", "high"), "entry 1", "not a number: 'high'"),
    _case("score null", second("score", None), "entry 1", "not a number"),
    _case("score NaN", second("score", NAN), "entry 1", "not finite: nan"),
    _case("score infinite", second("score", 1e999), "entry 1", "not finite: inf"),
    _case("score too large", second("score", 10**400), "entry 1", "not a number"),
    _case("bbox of three", second("bbox", [1, 2, 3]), "entry 1", "a list of 4 numbers"),
    _case("bbox of texts", second("bbox", ["1"] * 4), "entry 1", "a list of 4 numbers"),
    _case("bbox a dict", second("bbox", {"x": 1}), "entry 1", "a list of 4 numbers"),
    _case("bbox NaN", second("bbox", [1, NAN, 1, 1]), "entry 1", "not finite"),
    _case("bbox without end", second("bbox", [0, 0, 1e300, 1e300]), "entry 1", "not finite"),
    _case("bbox negative", second("bbox", [1, 1, -1, 1]), "entry 1", "negative size"),
    _case("mask null", second("segmentation", None), "entry 1", "not a compressed RLE"),
    _case("mask a polygon", second("segmentation", [[1, 1, 2, 2, 3, 3]]), "compressed RLE"),
    _case("mask size of one", mask(size=[10]), "entry 1", "not a compressed RLE"),
    _case("mask size of texts", mask(size=["10", "20"]), "entry 1", "not a compressed RLE"),
    _case("mask size huge", mask(size=[10**30, 20]), "entry 1", "not a compressed RLE"),
    _case("mask of another image", mask(size=[20, 10]), "entry 1", "(height, width)"),
    _case("mask counts a list", mask(counts=[5, 5]), "entry 1", "not a compressed RLE"),
    _case("id twice", check([{**entry, "id": 1} for entry in results()]), "entry 1", "an id"),
]
USES = [
    _case(
        "broken runs, evaluated",
        evaluate(_broken_counts()),
        "category 3 on image 1",
        "broken segmentation",
        "cut off",
        error=ValueError,
    ),
    _case("broken runs, submitted", submit(_broken_counts()), "entry 0", "do not add up"),
    _case("submission of nothing", submit([]), "no entry is left"),
    _case(
        "submission as text",
        submit(results(), "s.txt"),
        "s.txt",
        ".json or a .zip",
        error=ValueError,
    ),
    _case("check of nothing", lambda f: check_submission(lvis(), []), "the list is empty"),
    _case(
        "check, the dataset a list",
        lambda f: check_submission([], results()),
        "list",
        error=TypeError,
    ),
    _case(
        "check, image id twice",
        lambda f: check_submission(_twice(), results()),
        "id 1",
        "'images'",
        error=AnnotationFileError,
    ),
    _case(
        "unknown IoU type",
        evaluate(results(), "keypoints"),
        "iou_type='keypoints'",
        "'segm'",
        error=ValueError,
    ),
    _case(
        "unknown rule", evaluate(results(), rule="lenient"), "rule=", "'fixed'", error=ValueError
    ),
    _case(
        "groups too few",
        evaluate(results(), groups=["r"]),
        "1 labels",
        "2 categories",
        error=ValueError,
    ),
    _case(
        "groups of ids that are not there",
        evaluate(results(), groups={"r": [99]}),
        "99",
        error=ValueError,
    ),
    _case("max_dets 0", evaluate(results(), max_dets=0), "max_dets=0", "-1", error=ValueError),
    _case(
        "boundary of boxes", evaluate(results(), "bbox", boundary=True), "segm", error=ValueError
    ),
    _case(
        "compare without draws",
        lambda f: compare_results(lvis(), results(), results(), draws=0),
        "draws=0",
        error=ValueError,
    ),
]


def _twice() -> dict:
    content = lvis()
    content["images"][1]["id"] = 1
    return content


CASES = FILE + ENTRIES + USES
