"""Annotations and images, as training and evaluation read them, and the rows of DATASETS.FILES."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetMapper

from balms_det.annotations.images import image_errors_name
from balms_det.annotations.instances import load_instances
from balms_det.data.datasets import register_files
from balms_det.evaluation.ground_truth import read_ground_truth
from balms_det.utils.trust import UntrustedFileError
from tests.bad_input.case import Case
from tests.bad_input.datasets import annotation, bad, put, without
from tests.bad_input.documents import coco, write, write_images

NAN = float("nan")


def load(content: dict, images: bool = True) -> Callable[[Path], Any]:
    def run(folder: Path) -> Any:
        root = write_images(folder) if images else str(folder)
        return load_instances("mine", write(folder / "train.json", content), root)

    return run


def truth(content: dict) -> Callable[[Path], Any]:
    return lambda folder: read_ground_truth(write(folder / "val.json", content), masks=True)


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


MASKS = [
    bad("no bbox", load(without("annotations", 0, "bbox")), "annotation 1", "four numbers"),
    bad("bbox of three", load(annotation("bbox", [1, 2, 3])), "annotation 1", "[1, 2, 3]"),
    bad("bbox of texts", load(annotation("bbox", ["1"] * 4)), "annotation 1", "four numbers"),
    bad("bbox NaN", load(annotation("bbox", [1, NAN, 1, 1])), "annotation 1", "nan"),
    bad("bbox infinite", load(annotation("bbox", [1, 1, 1e999, 1])), "annotation 1", "inf"),
    bad("bbox negative size", load(annotation("bbox", [1, 1, -2, 3])), "no negative size"),
    bad("annotation id twice", load(annotation("id", 1, 1)), "annotation id 1", "not unique"),
    bad("no height", load(without("images", 0, "height")), "image 1", "no 'height'"),
    bad(
        "polygon flat",
        load(annotation("segmentation", [1, 1, 6, 1, 6, 6])),
        "annotation 1",
        "list of polygons",
    ),
    bad("polygon NaN", load(annotation("segmentation", [[NAN] * 6])), "annotation 1", "nan"),
    bad("polygon huge", load(annotation("segmentation", [[1e12] * 6])), "annotation 1"),
    bad("polygon of texts", load(annotation("segmentation", [["a"] * 6])), "annotation 1"),
    bad("polygon with null", load(annotation("segmentation", [[None] * 6])), "annotation 1"),
    bad("segmentation a text", load(annotation("segmentation", "yes")), "annotation 1"),
    bad("RLE without size", load(annotation("segmentation", {"counts": "1"})), "RLE"),
    bad(
        "RLE of another size",
        load(annotation("segmentation", {"size": [5, 5], "counts": "1"})),
        "annotation 1",
        "(5, 5)",
        "(10, 20)",
    ),
    bad(
        "runs too few",
        load(annotation("segmentation", {"size": [10, 20], "counts": [3, 4]})),
        "annotation 1",
        "add up",
        "200",
    ),
    bad(
        "runs negative",
        load(annotation("segmentation", {"size": [10, 20], "counts": [-10, 210]})),
        "annotation 1",
        "whole numbers",
    ),
    bad(
        "counts damaged",
        load(annotation("segmentation", {"size": [10, 20], "counts": "zz"})),
        "image 1",
        "do not add up",
        "cut off",
    ),
    bad(
        "counts a number",
        load(annotation("segmentation", {"size": [10, 20], "counts": 5})),
        "annotation 1",
        "no RLE",
    ),
]
TRUTH = [
    bad("truth without area", truth(without("annotations", 0, "area")), "val.json", "`area`"),
    bad("truth area NaN", truth(annotation("area", NAN)), "annotation 1", "no number"),
    bad("truth bbox infinite", truth(annotation("bbox", [1, 1, 1e999, 1])), "inf"),
    bad(
        "truth bbox negative",
        truth(annotation("bbox", [1, 9, 2, -3])),
        "annotation 1",
        "no negative",
    ),
    bad(
        "truth polygon of a box",
        truth(annotation("segmentation", [[1, 1, 5, 5]])),
        "annotation 1",
        "3 points, it has 4",
    ),
    bad(
        "truth box after an outline",
        truth(annotation("segmentation", [[1, 1, 6, 1, 6, 6], [1, 1, 5, 5]])),
        "3 points, it has 4",
    ),
    bad(
        "truth polygon of points",
        truth(annotation("segmentation", [[[1, 1], [6, 1], [6, 6]]])),
        "one list of numbers",
    ),
    bad(
        "truth outline far away",
        truth(annotation("segmentation", [[1e6, 1, -1e6, 2] * 50])),
        "annotation 1",
        "far outside",
    ),
    bad(
        "outline far away",
        load(annotation("segmentation", [[1e6, 1, -1e6, 2] * 50])),
        "annotation 1",
        "far outside",
    ),
    bad(
        "polygon of a box",
        load(annotation("segmentation", [[1, 1, 5, 5]])),
        "annotation 1",
        "four corners",
    ),
    bad(
        "polygon of points",
        load(annotation("segmentation", [[[1, 1], [6, 1], [6, 6]]])),
        "annotation 1",
        "list of points",
    ),
    bad(
        "truth without masks",
        truth(without("annotations", 0, "segmentation")),
        "annotation 1",
        "no segmentation",
    ),
    bad("truth polygon NaN", truth(annotation("segmentation", [[NAN] * 6])), "annotation 1"),
    bad(
        "truth polygon without end",
        truth(annotation("segmentation", [[10**400] * 6])),
        "val.json",
        "segmentation",
        "too large",
    ),
    bad("truth polygon odd", truth(annotation("segmentation", [[1, 2, 3, 4, 5]])), "5 numbers"),
    bad(
        "truth RLE damaged",
        truth(annotation("segmentation", {"size": [10, 20], "counts": "zz"})),
        "annotation 1",
        "do not add up",
    ),
    bad("truth without size", truth(without("images", 0, "width")), "`width`"),
    bad(
        "truth half LVIS",
        truth(without("images", 1, "neg_category_ids")),
        "image 2",
        "no 'neg_category_ids'",
    ),
    bad("truth id twice", truth(annotation("id", 1, 1)), "id 1", "'annotations'"),
]
IMAGES = [
    bad(
        "no images there",
        load(coco(), images=False),
        "mine",
        "part/a.jpg",
        "the image root",
        error=FileNotFoundError,
    ),
    bad(
        "no file name",
        load(without("images", 0, "file_name", document=coco)),
        "mine",
        "image 1",
        "no 'file_name'",
        error=ValueError,
    ),
    bad(
        "file name leaves the root",
        load(put("images", 0, "file_name", "../x", document=coco)),
        "'../x'",
        "image 1",
        "BALMS_DET_TRUST",
        error=UntrustedFileError,
    ),
    bad(
        "an image is gone",
        read_image(None),
        "b.jpg",
        "image_id 2",
        "image root",
        error=FileNotFoundError,
    ),
    bad(
        "an image is none",
        read_image(b"junk"),
        "b.jpg",
        "image_id 2",
        "cannot be read",
        error=OSError,
    ),
    bad("an image is empty", read_image(b""), "b.jpg", "cannot be read", error=OSError),
]
FILES = [
    bad("FILES null", rows(lambda j, r: None), "DATASETS.FILES", "None", error=ValueError),
    bad(
        "FILES of texts",
        rows(lambda j, r: ["abc"]),
        "[name, annotation json, image root]",
        error=ValueError,
    ),
    bad("FILES row of two", rows(lambda j, r: [["a", j]]), "DATASETS.FILES", error=ValueError),
    bad(
        "FILES row with number",
        rows(lambda j, r: [["a", j, 5]]),
        "DATASETS.FILES",
        error=ValueError,
    ),
    bad("FILES empty name", rows(lambda j, r: [["", j, r]]), "DATASETS.FILES", error=ValueError),
    bad(
        "FILES root missing",
        rows(lambda j, r: [["a_bad", j, f"{r}/no"]]),
        "'a_bad'",
        "image root",
        error=FileNotFoundError,
    ),
    bad(
        "FILES root a file",
        rows(lambda j, r: [["a_bad", j, j]]),
        "'a_bad'",
        "not a folder",
        error=FileNotFoundError,
    ),
    bad(
        "FILES json missing",
        rows(lambda j, r: [["a_bad", f"{r}/no.json", r]]),
        "no.json",
        error=FileNotFoundError,
    ),
    bad(
        "FILES name of another dataset",
        rows(lambda j, r: [["coco_2017_val", j, r]]),
        "already registered",
        "another name",
        error=ValueError,
    ),
]
CASES: list[Case] = MASKS + TRUTH + IMAGES + FILES
