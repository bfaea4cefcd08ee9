"""Annotation files, their images, and the rows of DATASETS.FILES."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetMapper

from balms_det.data.annotation_file import summarize
from balms_det.data.annotation_json import AnnotationFileError
from balms_det.data.class_stats import ClassStats
from balms_det.data.datasets import register_files
from balms_det.data.image_errors import image_errors_name
from balms_det.data.instances_json import load_instances
from balms_det.evaluation.ground_truth import read_ground_truth
from balms_det.trust import UntrustedFileError
from tests.bad_input.case import Case
from tests.bad_input.documents import coco, lvis, write, write_images

HUGE = 10**30
NAN = float("nan")


def summary(content: Any) -> Callable[[Path], Any]:
    return lambda folder: summarize(write(folder / "train.json", content))


def put(*keys_and_value: Any, document: Callable[[], dict] = lvis) -> dict:
    """A document with one value changed; the last argument is the value."""
    *keys, last, value = keys_and_value
    content = document()
    place = content
    for key in keys:
        place = place[key]
    place[last] = value
    return content


def without(*keys: Any, document: Callable[[], dict] = lvis) -> dict:
    *keys, last = keys
    content = document()
    place = content
    for key in keys:
        place = place[key]
    del place[last]
    return content


def load(content: dict, images: bool = True) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        root = write_images(folder) if images else str(folder)
        return load_instances("mine", write(folder / "train.json", content), root)

    return run


def truth(content: dict) -> Callable[[Path], Any]:
    return lambda folder: read_ground_truth(write(folder / "val.json", content), masks=True)


def annotation(key: str, value: Any, number: int = 0) -> dict:
    return put("annotations", number, key, value)


def rows(make: Callable[[str, str], Any]) -> Callable[[Path], Any]:
    """Register what ``make`` makes of a sound json and image root."""
    return lambda folder: register_files(make(write(folder / "t.json", coco()), str(folder)))


def read_image(content: bytes | None) -> Callable[[Path], Any]:
    """Map a record of the dataset whose image has this content, or is gone."""

    def run(folder: Path) -> Any:
        record = load(coco())(folder)[1]
        Path(record["file_name"]).unlink()
        if content is not None:
            Path(record["file_name"]).write_bytes(content)
        mapper = DatasetMapper(is_train=False, augmentations=[], image_format="BGR")
        with image_errors_name(record):
            mapper(record)

    return run


def _case(name: str, run: Callable, *words: str, error: type = AnnotationFileError) -> Case:
    return Case(name, run, error, words)


FILE = [
    _case("empty file", summary(""), "train.json", "the file is empty"),
    _case("blanks", summary("  \n "), "train.json", "not valid json", "line 2"),
    _case("binary", summary(bytes(range(256))), "train.json", "not a UTF-8 text file"),
    _case("UTF-16", summary(json.dumps(coco()).encode("utf-16")), "train.json", "UTF-8"),
    _case("cut off", summary(json.dumps(lvis())[:-30]), "line 1, column", "cut off"),
    _case("two documents", summary(json.dumps(coco()) * 2), "train.json", "Extra data"),
    _case("a web page", summary("<html></html>"), "train.json", "not valid json"),
    _case("too deep", summary('{"a": ' * 200_000), "train.json", "too deep"),
    _case("a list", summary([coco()]), "train.json", "`object`, got `array`", "'images'"),
    _case("a number", summary("5"), "train.json", "`object`, got `int`"),
    _case("null", summary("null"), "train.json", "`object`, got `null`"),
    _case("no images", summary(without("images")), "train.json", "`images`"),
    _case("no categories", summary(without("categories")), "train.json", "`categories`"),
    _case("images null", summary(put("images", None)), "`$.images`", "`array`, got `null`"),
    _case("empty images", summary(put("images", [])), "train.json", "'images' is empty"),
    _case("empty categories", summary(put("categories", [])), "'categories' is empty"),
    _case("annotations null", summary(put("annotations", None)), "`$.annotations`"),
]
MISSING = [
    _case(
        "missing",
        lambda f: summarize(f"{f}/no.json"),
        "no.json",
        "not exist",
        error=FileNotFoundError,
    ),
    _case(
        "a folder",
        lambda f: summarize(str(f)),
        "is a folder",
        "json inside it",
        error=FileNotFoundError,
    ),
    _case("no name", lambda f: summarize(""), "does not exist", error=FileNotFoundError),
    _case(
        "counts of a folder",
        lambda f: ClassStats.from_file(str(f)),
        "is a folder",
        error=FileNotFoundError,
    ),
]
ENTRIES = [
    _case("image without id", summary(without("images", 0, "id")), "`id`", "`$.images["),
    _case("image id is a list", summary(put("images", 0, "id", [1])), "`$.images[", ".id`"),
    _case("image id too large", summary(put("images", 0, "id", HUGE)), "`$.images[", "id"),
    _case("image ids of two kinds", summary(put("images", 0, "id", "one")), "numbers", "texts"),
    _case("image id twice", summary(put("images", 1, "id", 1)), "id 1", "2 times", "'images'"),
    _case("category id twice", summary(put("categories", 1, "id", 3)), "id 3", "'categories'"),
    _case(
        "category name twice",
        summary(put("categories", 1, "name", "owl", document=coco)),
        "name 'owl'",
        "unique",
    ),
    _case("category without name", summary(without("categories", 0, "name")), "`name`"),
    _case("category name a number", summary(put("categories", 0, "name", 5)), "`str`"),
    _case("category id a text", summary(put("categories", 0, "id", "3")), "`int`, got `str`"),
    _case(
        "category id negative and unlisted",
        summary(annotation("category_id", -3)),
        "category id -3",
        "'categories' does not list",
    ),
    _case("category is a gap", summary(annotation("category_id", 5)), "category id 5"),
    _case("category id too large", summary(put("categories", 0, "id", HUGE)), "`$.categories["),
    _case(
        "image of an annotation is not listed",
        summary(annotation("image_id", 9)),
        "image 9",
        "'images' does not list",
    ),
    _case("annotation without image", summary(without("annotations", 0, "image_id")), "`image_id`"),
    _case("frequency x", summary(put("categories", 0, "frequency", "x")), "'owl'", "'r', 'c'"),
    _case("synonyms a text", summary(put("categories", 0, "synonyms", "owl")), "synonyms"),
    _case(
        "negative ids a number",
        summary(put("images", 0, "neg_category_ids", 7)),
        "neg_category_ids",
    ),
    _case("height a text", summary(put("images", 0, "height", "10")), "height", "got `str`"),
    _case("height 0", summary(put("images", 0, "height", 0)), "height", ">= 1"),
    _case("width huge", summary(put("images", 0, "width", 2**40)), "width", "<= 65535"),
    _case("file name a number", summary(put("images", 0, "file_name", 5)), "file_name"),
    _case("iscrowd a text", summary(annotation("iscrowd", "no")), "iscrowd"),
]
MASKS = [
    _case("no bbox", load(without("annotations", 0, "bbox")), "annotation 1", "four numbers"),
    _case("bbox of three", load(annotation("bbox", [1, 2, 3])), "annotation 1", "[1, 2, 3]"),
    _case("bbox of texts", load(annotation("bbox", ["1"] * 4)), "annotation 1", "four numbers"),
    _case("bbox NaN", load(annotation("bbox", [1, NAN, 1, 1])), "annotation 1", "nan"),
    _case("bbox infinite", load(annotation("bbox", [1, 1, 1e999, 1])), "annotation 1", "inf"),
    _case("bbox negative size", load(annotation("bbox", [1, 1, -2, 3])), "no negative size"),
    _case("annotation id twice", load(annotation("id", 1, 1)), "annotation id 1", "not unique"),
    _case("no height", load(without("images", 0, "height")), "image 1", "no 'height'"),
    _case(
        "polygon flat",
        load(annotation("segmentation", [1, 1, 6, 1, 6, 6])),
        "annotation 1",
        "list of polygons",
    ),
    _case("polygon NaN", load(annotation("segmentation", [[NAN] * 6])), "annotation 1", "nan"),
    _case("polygon huge", load(annotation("segmentation", [[1e12] * 6])), "annotation 1"),
    _case("polygon of texts", load(annotation("segmentation", [["a"] * 6])), "annotation 1"),
    _case("polygon with null", load(annotation("segmentation", [[None] * 6])), "annotation 1"),
    _case("segmentation a text", load(annotation("segmentation", "yes")), "annotation 1"),
    _case("RLE without size", load(annotation("segmentation", {"counts": "1"})), "RLE"),
    _case(
        "RLE of another size",
        load(annotation("segmentation", {"size": [5, 5], "counts": "1"})),
        "annotation 1",
        "(5, 5)",
        "(10, 20)",
    ),
    _case(
        "runs too few",
        load(annotation("segmentation", {"size": [10, 20], "counts": [3, 4]})),
        "annotation 1",
        "add up",
        "200",
    ),
    _case(
        "runs negative",
        load(annotation("segmentation", {"size": [10, 20], "counts": [-10, 210]})),
        "annotation 1",
        "whole numbers",
    ),
    _case(
        "counts damaged",
        load(annotation("segmentation", {"size": [10, 20], "counts": "zz"})),
        "image 1",
        "do not add up",
        "cut off",
    ),
    _case(
        "counts a number",
        load(annotation("segmentation", {"size": [10, 20], "counts": 5})),
        "annotation 1",
        "no RLE",
    ),
]
TRUTH = [
    _case("truth without area", truth(without("annotations", 0, "area")), "val.json", "`area`"),
    _case("truth area NaN", truth(annotation("area", NAN)), "annotation 1", "no number"),
    _case("truth bbox infinite", truth(annotation("bbox", [1, 1, 1e999, 1])), "not finite"),
    _case(
        "truth without masks",
        truth(without("annotations", 0, "segmentation")),
        "annotation 1",
        "no segmentation",
    ),
    _case("truth polygon NaN", truth(annotation("segmentation", [[NAN] * 6])), "annotation 1"),
    _case("truth polygon odd", truth(annotation("segmentation", [[1, 2, 3, 4, 5]])), "[5]"),
    _case(
        "truth RLE damaged",
        truth(annotation("segmentation", {"size": [10, 20], "counts": "zz"})),
        "annotation 1",
        "do not add up",
    ),
    _case("truth without size", truth(without("images", 0, "width")), "`width`"),
    _case(
        "truth half LVIS",
        truth(without("images", 1, "neg_category_ids")),
        "image 2",
        "no 'neg_category_ids'",
    ),
    _case("truth id twice", truth(annotation("id", 1, 1)), "id 1", "'annotations'"),
]
IMAGES = [
    _case(
        "no images there",
        load(coco(), images=False),
        "mine",
        "part/a.jpg",
        "the image root",
        error=FileNotFoundError,
    ),
    _case(
        "no file name",
        load(without("images", 0, "file_name", document=coco)),
        "mine",
        "image 1",
        "no 'file_name'",
        error=ValueError,
    ),
    _case(
        "file name leaves the root",
        load(put("images", 0, "file_name", "../x", document=coco)),
        "'../x'",
        "image 1",
        "BALMS_DET_TRUST",
        error=UntrustedFileError,
    ),
    _case(
        "an image is gone",
        read_image(None),
        "b.jpg",
        "image_id 2",
        "image root",
        error=FileNotFoundError,
    ),
    _case(
        "an image is none",
        read_image(b"junk"),
        "b.jpg",
        "image_id 2",
        "cannot be read",
        error=OSError,
    ),
    _case("an image is empty", read_image(b""), "b.jpg", "cannot be read", error=OSError),
]
FILES = [
    _case("FILES null", rows(lambda j, r: None), "DATASETS.FILES", "None", error=ValueError),
    _case(
        "FILES of texts",
        rows(lambda j, r: ["abc"]),
        "[name, annotation json, image root]",
        error=ValueError,
    ),
    _case("FILES row of two", rows(lambda j, r: [["a", j]]), "DATASETS.FILES", error=ValueError),
    _case(
        "FILES row with number",
        rows(lambda j, r: [["a", j, 5]]),
        "DATASETS.FILES",
        error=ValueError,
    ),
    _case("FILES empty name", rows(lambda j, r: [["", j, r]]), "DATASETS.FILES", error=ValueError),
    _case(
        "FILES root missing",
        rows(lambda j, r: [["a_bad", j, f"{r}/no"]]),
        "'a_bad'",
        "image root",
        error=FileNotFoundError,
    ),
    _case(
        "FILES root a file",
        rows(lambda j, r: [["a_bad", j, j]]),
        "'a_bad'",
        "not a folder",
        error=FileNotFoundError,
    ),
    _case(
        "FILES json missing",
        rows(lambda j, r: [["a_bad", f"{r}/no.json", r]]),
        "no.json",
        error=FileNotFoundError,
    ),
    _case(
        "FILES name of another dataset",
        rows(lambda j, r: [["coco_2017_val", j, r]]),
        "already registered",
        "another name",
        error=ValueError,
    ),
]
CASES = FILE + MISSING + ENTRIES + MASKS + TRUTH + IMAGES + FILES
