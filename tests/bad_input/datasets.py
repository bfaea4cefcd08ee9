"""Annotation files: what they are, and their ids, names and sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from balms_det.annotations.read import AnnotationFileError
from balms_det.annotations.summary import summarize
from balms_det.data.class_stats import ClassStats
from tests.bad_input.case import Case
from tests.bad_input.documents import coco, lvis, write

HUGE = 10**30


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


def annotation(key: str, value: Any, number: int = 0) -> dict:
    return put("annotations", number, key, value)


def bad(name: str, run: Callable, *words: str, error: type = AnnotationFileError) -> Case:
    return Case(name, run, error, words)


FILE = [
    bad("empty file", summary(""), "train.json", "the file is empty"),
    bad("blanks", summary("  \n "), "train.json", "not valid json", "line 2"),
    bad("binary", summary(bytes(range(256))), "train.json", "not a UTF-8 text file"),
    bad("UTF-16", summary(json.dumps(coco()).encode("utf-16")), "train.json", "UTF-8"),
    bad("cut off", summary(json.dumps(lvis())[:-30]), "line 1, column", "cut off"),
    bad("two documents", summary(json.dumps(coco()) * 2), "train.json", "Extra data"),
    bad("a web page", summary("<html></html>"), "train.json", "not valid json"),
    bad("too deep", summary('{"a": ' * 200_000), "train.json", "too deep"),
    bad("a list", summary([coco()]), "train.json", "`object`, got `array`", "'images'"),
    bad("a number", summary("5"), "train.json", "`object`, got `int`"),
    bad("null", summary("null"), "train.json", "`object`, got `null`"),
    bad("no images", summary(without("images")), "train.json", "`images`"),
    bad("no categories", summary(without("categories")), "train.json", "`categories`"),
    bad("images null", summary(put("images", None)), "`$.images`", "`array`, got `null`"),
    bad("empty images", summary(put("images", [])), "train.json", "'images' is empty"),
    bad("empty categories", summary(put("categories", [])), "'categories' is empty"),
    bad("annotations null", summary(put("annotations", None)), "`$.annotations`"),
]
MISSING = [
    bad(
        "missing",
        lambda f: summarize(f"{f}/no.json"),
        "no.json",
        "not exist",
        error=FileNotFoundError,
    ),
    bad(
        "a folder",
        lambda f: summarize(str(f)),
        "is a folder",
        "json inside it",
        error=FileNotFoundError,
    ),
    bad("no name", lambda f: summarize(""), "does not exist", error=FileNotFoundError),
    bad(
        "counts of a folder",
        lambda f: ClassStats.from_file(str(f)),
        "is a folder",
        error=FileNotFoundError,
    ),
]
ENTRIES = [
    bad("image without id", summary(without("images", 0, "id")), "`id`", "`$.images["),
    bad("image id is a list", summary(put("images", 0, "id", [1])), "`$.images[", ".id`"),
    bad("image id too large", summary(put("images", 0, "id", HUGE)), "`$.images[", "id"),
    bad("image ids of two kinds", summary(put("images", 0, "id", "one")), "numbers", "texts"),
    bad("image id twice", summary(put("images", 1, "id", 1)), "id 1", "2 times", "'images'"),
    bad("category id twice", summary(put("categories", 1, "id", 3)), "id 3", "'categories'"),
    bad(
        "category name twice",
        summary(put("categories", 1, "name", "owl", document=coco)),
        "name 'owl'",
        "unique",
    ),
    bad(
        "half a character in a name",
        summary(put("categories", 0, "name", "\ud800", document=coco)),
        "train.json",
        "half of a character",
    ),
    bad("half a character for a list", summary(put("images", "\ud800")), "train.json", "UTF-8"),
    bad("category without name", summary(without("categories", 0, "name")), "`name`"),
    bad("category name a number", summary(put("categories", 0, "name", 5)), "`str`"),
    bad("category id a text", summary(put("categories", 0, "id", "3")), "`int`, got `str`"),
    bad(
        "category id negative and unlisted",
        summary(annotation("category_id", -3)),
        "category id -3",
        "'categories' does not list",
    ),
    bad("category is a gap", summary(annotation("category_id", 5)), "category id 5"),
    bad("category id too large", summary(put("categories", 0, "id", HUGE)), "`$.categories["),
    bad(
        "image of an annotation is not listed",
        summary(annotation("image_id", 9)),
        "image 9",
        "'images' does not list",
    ),
    bad("annotation without image", summary(without("annotations", 0, "image_id")), "`image_id`"),
    bad("frequency x", summary(put("categories", 0, "frequency", "x")), "'owl'", "'r', 'c'"),
    bad("synonyms a text", summary(put("categories", 0, "synonyms", "owl")), "synonyms"),
    bad(
        "negative ids a number",
        summary(put("images", 0, "neg_category_ids", 7)),
        "neg_category_ids",
    ),
    bad("height a text", summary(put("images", 0, "height", "10")), "height", "got `str`"),
    bad("height 0", summary(put("images", 0, "height", 0)), "height", ">= 1"),
    bad("width huge", summary(put("images", 0, "width", 2**40)), "width", "<= 65535"),
    bad("file name a number", summary(put("images", 0, "file_name", 5)), "file_name"),
    bad("iscrowd a text", summary(annotation("iscrowd", "no")), "iscrowd"),
]
CASES = FILE + MISSING + ENTRIES
